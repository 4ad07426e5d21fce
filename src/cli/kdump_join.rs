//! `--reassemble` of `kdump-save` and `makedumpfile`: the parts of a split dump become one file.

use std::path::Path;

use crate::dump::join::join;
use crate::error::{Context, Error, Kind, Result};
use crate::target::Sink;
use crate::target::file::FileSink;
use crate::vmcore::Vmcore;

/// Writes the dump `to`; why it is incomplete, if it is.
pub(super) fn reassemble(parts: &[&Path], to: &Path, force: bool) -> Result<Option<String>> {
    let core = Vmcore::open_all(parts)?;
    let name = || parts.first().map(|part| part.display().to_string()).unwrap_or_default();
    let none = || Error::new(Kind::Invalid, "it is no part of a split dump").context(name());
    let dump = core.dump().ok_or_else(none)?;
    let mut sink = FileSink::create(to, force)?;
    let joined = join(dump, &sink);
    if joined.as_ref().is_err_and(|e| matches!(e.kind(), Kind::Invalid | Kind::Missing)) {
        sink.discard();
    }
    let incomplete = joined.context(name)?;
    sink.finish()?;
    Ok(incomplete)
}
