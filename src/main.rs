//! The binary; everything is in the library.
fn main() -> std::process::ExitCode {
    kdumpbox::main(std::env::args_os().collect())
}
