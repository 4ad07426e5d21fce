//! What is tried when the saver dies of a signal: the next rung of the ladder, in a new process. Each rung is tried once.
//! Behind the last one is a copy of memory that looks at nothing in it, for what kills whoever reads it.

use std::path::PathBuf;

use super::config::Config;
use super::run::{level, rungs};

/// Where the saver goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// The directory of the first attempt, if it came that far.
    pub directory: Option<PathBuf>,
    /// The first rung to try, or how many there are for the copy that looks at nothing.
    pub rung: usize,
    /// How the attempts before ended.
    pub reason: String,
}

/// How far the savers came.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The directory, once there is one.
    pub directory: Option<String>,
    /// The last rung that was begun.
    pub reached: Option<usize>,
    from: Option<usize>,
    reasons: Vec<String>,
}

impl Attempts {
    /// What to try after a saver that died for `reason`; `None` when all was tried.
    pub fn next(&mut self, config: &Config, reason: String) -> Option<Again> {
        let rung = next_rung(self.from, self.reached, self.directory.is_some(), rungs(level(config)).len())?;
        self.from = Some(rung);
        self.reasons.push(reason);
        Some(Again { directory: self.directory.as_ref().map(PathBuf::from), rung, reason: self.reasons.join("; ") })
    }
}

/// The rung behind `reached` and behind where the last attempt began, `from`. Whoever has no directory died of the first
/// look at memory: that leaves the copy, number `copy`.
fn next_rung(from: Option<usize>, reached: Option<usize>, directory: bool, copy: usize) -> Option<usize> {
    let next = reached.max(from).map_or(0, |last| last + 1);
    let next = if directory { next } else { next.max(copy) };
    (next <= copy).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_is_tried_once_and_the_copy_is_the_last() {
        for (from, reached, directory, next, situation) in [
            (None, Some(0), true, Some(1), "died at the level asked for"),
            (None, None, true, Some(0), "died of the log: the dump itself was not tried"),
            (Some(0), None, true, Some(1), "died again before it began a rung"),
            (Some(0), Some(1), true, Some(2), "failed at one rung, died at the next"),
            (Some(2), Some(2), true, Some(3), "died of raw memory"),
            (Some(3), Some(2), true, None, "died of the copy"),
            (Some(3), Some(3), true, None, "died of the copy, which it had begun"),
            (None, None, false, Some(3), "died of the first look"),
            (Some(3), None, false, None, "died of the copy before it had a directory"),
        ] {
            assert_eq!(next_rung(from, reached, directory, 3), next, "{situation}");
        }
    }

    #[test]
    fn attempts_end_whatever_the_savers_do() {
        let config = Config::parse("", "");
        let mut attempts = Attempts { directory: Some("/target/x".into()), ..Attempts::default() };
        let mut tried = Vec::new();
        while let Some(again) = attempts.next(&config, format!("end {}", tried.len())) {
            tried.push(again);
        }
        assert_eq!(tried.iter().map(|again| again.rung).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let last = tried.last().expect("some");
        assert_eq!((last.reason.as_str(), &last.directory), ("end 0; end 1; end 2; end 3", &Some("/target/x".into())));
    }
}
