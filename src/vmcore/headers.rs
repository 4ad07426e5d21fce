//! What the first bytes of a file tell, where too much of the rest is missing to call it a vmcore.

use super::input::Input;
use super::{Layout, Notes, elf, flat, head, kdump};

/// What is left of a vmcore.
#[derive(Default)]
pub struct Headers {
    /// Whether it begins as a flattened stream.
    pub flattened: bool,
    /// Whether what that stands for, or the file, is a dump in the kdump-compressed format; else it is an ELF core.
    pub compressed: bool,
    /// A dump's headers, if they are whole.
    pub dump: Option<kdump::Header>,
    /// The notes, as far as they are there.
    pub notes: Notes,
    /// Bytes in the file.
    pub size: u64,
}

impl Headers {
    /// `None` if the file does not begin like any vmcore.
    pub fn read(mut input: Box<dyn Input>) -> Option<Self> {
        let mut found = Self { size: input.size(), ..Self::default() };
        if head(input.as_ref()).ok()?.starts_with(flat::MAGIC) {
            found.flattened = true;
            let Ok(file) = flat::FlatInput::open(input) else { return Some(found) };
            input = Box::new(file);
        }
        found.compressed = kdump::is_kdump(&head(input.as_ref()).ok()?);
        if found.compressed {
            if let Ok((header, notes)) = kdump::headers(input) {
                (found.dump, found.notes) = (Some(header), notes);
            }
        } else if let Ok(layout) = Layout::headers(input.as_ref()) {
            found.notes = Notes::read(input.as_ref(), &layout.notes);
        } else if !found.flattened && !elf::is_core(input.as_ref()) {
            return None;
        }
        Some(found)
    }
}
