//! Writers of vmcores and readers of dumps for the tests, which share no layout with the product.
#![allow(dead_code, missing_docs, reason = "each test target uses its part")]

pub mod faults;
pub mod filtered;
pub mod kdump;
pub mod kernel;
pub mod log;
pub mod machine;
pub mod room;
pub mod saved;
pub mod symbols;
pub mod xen;
