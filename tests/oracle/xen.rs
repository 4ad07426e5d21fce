//! The dump of a real Xen crash, judged by makedumpfile.

use crate::lab::{SUITE, xen_core};

#[test]
fn made() {
    xen_core::vmcore(SUITE);
}
