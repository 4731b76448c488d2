//! The program: an allocator, and [`ratelimit_proxy::cli`].

use std::process::ExitCode;

/// Threads allocate and free for each message that hyper reads; this does both without a lock between them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ratelimit_proxy::cli::main(std::env::args_os()).into()
}
