//! What time it is.

/// Nanoseconds of the clock that never jumps.
#[must_use]
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    // Neither part is ever negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The processor's own counter, of unknown rate: cheaper than [`now_ns`], for records that are converted later.
#[must_use]
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has this instruction; it touches no memory.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(target_arch = "aarch64")]
    {
        let count: u64;
        // SAFETY: the kernel lets every program read this counter, which it keeps going itself; it touches no memory.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags))
        };
        count
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return now_ns();
}

#[cfg(test)]
mod tests {
    #[test]
    fn clocks_go_forward() {
        let (time, count) = (super::now_ns(), super::ticks());
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(super::now_ns() >= time + 1_000_000);
        assert!(super::ticks() > count);
    }
}
