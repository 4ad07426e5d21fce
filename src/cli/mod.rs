//! One file per applet: options, then a request, then one call, then what to print. No logic.

pub mod crashkernel_check;
mod crashkernel_estimate;
mod crashkernel_parse;
pub mod getopt;
mod info;
pub mod init;
pub mod kdump_initramfs;
mod kdump_join;
pub mod kdump_save;
pub mod kdumpbox;
pub mod kexec;
mod kexec_help;
mod kexec_holder;
mod kexec_input;
mod kexec_load;
mod kexec_mode;
mod kexec_options;
mod kexec_plan;
pub mod makedumpfile;
mod makedumpfile_run;
pub mod modprobe;
mod output;
mod unflatten;
pub mod vmcore_dmesg;
