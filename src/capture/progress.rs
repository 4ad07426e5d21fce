//! What a stage tells its supervisor while it works: lines on a pipe. The supervisor needs to know that the saver still
//! moves, where it saves, and why it failed, and must learn it even if the saver is killed in the middle of a word.

use std::io::Write;
use std::time::{Duration, Instant};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// This much of so much is done.
    Done(u64, u64),
    /// The directory that the dump goes to.
    Directory(String),
    /// This rung of the ladder is begun, counted from the top.
    Rung(usize),
    /// The stage failed: the reason.
    Failed(String),
}

impl Message {
    /// The line without its newline.
    pub fn line(&self) -> String {
        match self {
            Message::Done(done, total) => format!("done {done} {total}"),
            Message::Directory(path) => format!("directory {path}"),
            Message::Rung(number) => format!("rung {number}"),
            Message::Failed(reason) => format!("failed {}", reason.replace('\n', " ")),
        }
    }

    /// Reads a line; anything else is [`None`].
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "done" => {
                let (done, total) = rest.split_once(' ')?;
                Some(Message::Done(done.parse().ok()?, total.parse().ok()?))
            }
            "directory" => Some(Message::Directory(rest.into())),
            "rung" => rest.parse().ok().map(Message::Rung),
            "failed" => Some(Message::Failed(rest.into())),
            _ => None,
        }
    }

    /// Sends it to the supervisor, who reads our standard output. Nobody may be listening; the work goes on.
    pub fn send(&self) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", self.line()).and_then(|()| out.flush());
    }
}

/// When a stage has had its time: so long altogether, or so long without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// From the stage's start.
    Total(Duration),
    /// From its last progress.
    Stall(Duration),
}

/// Watches one stage.
#[derive(Debug)]
pub struct Watch {
    patience: Patience,
    since: Instant,
    done: u64,
}

impl Watch {
    /// A stage starts `now`.
    pub fn new(patience: Patience, now: Instant) -> Self {
        Self { patience, since: now, done: 0 }
    }

    /// Takes note of a message. Only more work done counts as progress: a saver that repeats itself does not move.
    pub fn note(&mut self, message: &Message, now: Instant) {
        let moved = match message {
            Message::Done(done, _) => *done > self.done,
            Message::Directory(_) | Message::Rung(_) => true,
            Message::Failed(_) => false,
        };
        match message {
            Message::Done(done, _) => self.done = self.done.max(*done),
            // It begins from nothing.
            Message::Rung(_) => self.done = 0,
            _ => {}
        }
        if moved && matches!(self.patience, Patience::Stall(_)) {
            self.since = now;
        }
    }

    /// Why the stage must be ended `now`, if it must.
    pub fn verdict(&self, now: Instant) -> Option<String> {
        let (limit, what) = match self.patience {
            Patience::Total(limit) => (limit, "it took longer than"),
            Patience::Stall(limit) => (limit, "it made no progress for"),
        };
        (now.duration_since(self.since) >= limit).then(|| format!("{what} {} s", limit.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe_and_broken_lines_are_passed_over() {
        let all = [
            Message::Done(3, 7),
            Message::Directory("/target/a b".into()),
            Message::Rung(1),
            Message::Failed("no room".into()),
        ];
        for message in all {
            assert_eq!(Message::parse(&message.line()), Some(message));
        }
        for line in ["", "done", "done 3", "done x 7", "directory", "rung", "rung -1", "\0\0 "] {
            assert_eq!(Message::parse(line), None, "{line:?}");
        }
        assert_eq!(Message::Failed("a\nb".into()).line(), "failed a b");
    }

    #[test]
    fn only_more_work_done_resets_the_stall_timer() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut stall = Watch::new(Patience::Stall(Duration::from_secs(10)), start);
        stall.note(&Message::Done(1, 9), at(8));
        assert_eq!(stall.verdict(at(17)), None);
        stall.note(&Message::Done(1, 9), at(17));
        assert_eq!(stall.verdict(at(18)).as_deref(), Some("it made no progress for 10 s"));
        stall.note(&Message::Rung(1), at(20));
        stall.note(&Message::Done(1, 9), at(25));
        assert_eq!(stall.verdict(at(34)), None, "a rung begins from nothing");
        let mut total = Watch::new(Patience::Total(Duration::from_secs(10)), start);
        total.note(&Message::Done(1, 9), at(8));
        assert_eq!(total.verdict(at(10)).as_deref(), Some("it took longer than 10 s"));
    }
}
