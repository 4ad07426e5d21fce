//! The log of `init` and its stages: lines to `/dev/kmsg`, from where the kernel brings them to every console and keeps
//! them in its own log; to standard error while that device is not there yet.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Kmsg(Mutex<Option<File>>);

static KMSG: Kmsg = Kmsg(Mutex::new(None));

/// The kernel cuts a record at about 1 KiB (`PRINTKRB_RECORD_MAX`) and refuses longer writes.
const LINE_MAX: usize = 900;

/// Opens the device and becomes the process's logger; may be called again once the device is there.
pub fn install() {
    if let (Ok(mut kmsg), Ok(file)) = (KMSG.0.lock(), File::options().write(true).open("/dev/kmsg")) {
        *kmsg = Some(file);
    }
    // The second call finds the logger set, which is what is wanted.
    let _ = log::set_logger(&KMSG);
    log::set_max_level(LevelFilter::Info);
}

/// Whether debug lines are logged too.
pub fn set_debug(on: bool) {
    log::set_max_level(if on { LevelFilter::Debug } else { LevelFilter::Info });
}

/// The line as the kernel takes it: `<priority>kdump: text`, in one write.
fn line(level: Level, text: &str) -> String {
    // KERN_ERR, KERN_WARNING, KERN_INFO, KERN_DEBUG; info must pass a console that hides KERN_DEBUG only.
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info | Level::Debug | Level::Trace => 6,
    };
    let end = (0..=LINE_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("<{priority}>kdump: {}\n", text.get(..end).unwrap_or_default().replace('\n', " "))
}

impl Log for Kmsg {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record.level(), &record.args().to_string());
        // try_lock: the panic hook logs too, perhaps while this very lock is held.
        let kmsg = self.0.try_lock();
        // Where the line can't go there is nobody to tell.
        let _ = match kmsg.as_ref().ok().and_then(|k| k.as_ref()) {
            Some(mut file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_record_of_bounded_length() {
        assert_eq!(line(Level::Error, "a\nb"), "<3>kdump: a b\n");
        let long = "ü".repeat(1000);
        let line = line(Level::Info, &long);
        assert!(line.len() <= LINE_MAX + "<6>kdump: \n".len() && line.ends_with("ü\n"));
    }
}
