//! What the kernel says about this process.

use procfs::process::Process;
use serde::Serialize;

/// One reading; what can't be read is `None`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Reading {
    /// Seconds of processor time, user and system.
    pub(crate) cpu_seconds: Option<f64>,
    /// Bytes of memory in use.
    pub(crate) resident_bytes: Option<u64>,
    /// Bytes of address space.
    pub(crate) virtual_bytes: Option<u64>,
    /// File descriptors.
    pub(crate) open_fds: Option<u64>,
    /// Most file descriptors there may be.
    pub(crate) max_fds: Option<u64>,
    /// Threads.
    pub(crate) threads: Option<u64>,
    /// When it started, in seconds since the Unix epoch.
    pub(crate) start_seconds: Option<f64>,
}

impl Reading {
    /// Reads `/proc`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are doubles; 2⁵³ ticks are longer than any machine lives"
    )]
    pub(crate) fn now() -> Self {
        let Ok(process) = Process::myself() else { return Self::default() };
        let mut reading = Self {
            open_fds: process.fd_count().ok().and_then(|count| u64::try_from(count).ok()),
            max_fds: process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Value(value) => Some(value),
                procfs::process::LimitValue::Unlimited => None,
            }),
            ..Self::default()
        };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            reading.cpu_seconds = Some((stat.utime + stat.stime) as f64 / ticks);
            reading.resident_bytes = Some(stat.rss.saturating_mul(procfs::page_size()));
            reading.virtual_bytes = Some(stat.vsize);
            reading.threads = u64::try_from(stat.num_threads).ok();
            reading.start_seconds =
                procfs::boot_time_secs().ok().map(|boot| boot as f64 + stat.starttime as f64 / ticks);
        }
        reading
    }
}
