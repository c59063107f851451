//! What the command asks of the operating system: cores, memory that ranks share, memory of other ranks,
//! clocks. Everything here is small, and safe to call.

use std::alloc::Layout;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The alignment of every buffer, so that contenders see the same addresses modulo a page.
const PAGE_BYTES: usize = 4096;

/// The cores that this process may run on, in ascending order.
pub(crate) fn allowed_cores() -> Vec<usize> {
    // SAFETY: a cpu_set_t is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size into `set`, which is that large.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return vec![0];
    }
    // SAFETY: the index is below the number of bits of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

/// How many cores there are, whatever this process may use of them.
pub(crate) fn available_cores() -> usize {
    // SAFETY: the call takes a number and touches no memory.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1).max(1)
}

/// How much memory is free to take, in bytes.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// How large the file system at `path` is, and how much of it is free, in bytes.
pub(crate) fn space(path: &std::path::Path) -> Option<(u64, u64)> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: all zeros is a value of this plain struct.
    let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string that outlives the call, and `facts` a valid place for the answer.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut facts) };
    (result == 0).then(|| (facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize))
}

/// Keeps the calling thread on one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    pin_to(&[core])
}

/// Keeps the calling thread on these cores.
pub(crate) fn pin_to(cores: &[usize]) -> io::Result<()> {
    if cores.iter().any(|core| *core >= libc::CPU_SETSIZE as usize) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: as in `allowed_cores`; every index was checked.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cores.iter().for_each(|core| libc::CPU_SET(*core, &mut set));
        set
    };
    // SAFETY: the kernel reads the given size from `set`, which is that large.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks the kernel to kill this process when the thread that started it ends; false if it is gone already.
pub(crate) fn die_with_parent(parent: u32) -> bool {
    // SAFETY: these options take plain numbers and touch no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) };
    std::os::unix::process::parent_id() == parent
}

/// Lets sibling processes read this one's memory where the kernel would ask for a parent.
pub(crate) fn allow_attach() {
    // SAFETY: the option takes plain numbers and touches no memory; kernels without it refuse it.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
}

/// Copies `target.len()` bytes at `address` of process `process` into `target`.
pub(crate) fn read_process(process: u32, address: u64, target: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < target.len() {
        let left = &mut target[done..];
        let local = libc::iovec { iov_base: left.as_mut_ptr().cast(), iov_len: left.len() };
        let remote = libc::iovec { iov_base: (address as usize + done) as *mut _, iov_len: left.len() };
        // SAFETY: the kernel writes only into `left`, which is borrowed mutably; a bad remote address is an
        // error of the call, since the kernel checks it against the other process.
        let got =
            unsafe { libc::process_vm_readv(process as i32, &raw const local, 1, &raw const remote, 1, 0) };
        match got {
            got if got > 0 => done += got as usize,
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// A cheap clock for single calls; `ticks_per_us` says how fast it runs.
pub(crate) use crate::system::clock::ticks;

/// How many ticks are a microsecond, measured once against the system's clock.
pub(crate) fn ticks_per_us() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, first) = (Instant::now(), ticks());
        while start.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let passed = ticks().wrapping_sub(first);
        passed as f64 / (start.elapsed().as_nanos() as f64 / 1e3)
    })
}

/// Gives back what a library allocated.
pub(crate) type Release = Box<dyn FnOnce(*mut u8)>;

enum Origin {
    Heap(Layout),
    Library(Option<Release>),
}

/// A buffer that calls read and write through its address.
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    origin: Origin,
}

impl Memory {
    /// Zeroed memory of this process, page-aligned.
    pub(crate) fn heap(bytes: usize) -> Memory {
        let layout = Layout::from_size_align(bytes.max(1), PAGE_BYTES).expect("sizes were checked");
        // SAFETY: the layout has at least one byte.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { std::alloc::handle_alloc_error(layout) };
        Memory { start, bytes, origin: Origin::Heap(layout) }
    }

    /// Memory that a library handed out.
    ///
    /// # Safety
    /// `start` is valid for reads and writes of `bytes` until `release` is called with it, by nobody else.
    pub(crate) unsafe fn from_library(start: NonNull<u8>, bytes: usize, release: Release) -> Memory {
        Memory { start, bytes, origin: Origin::Library(Some(release)) }
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where byte `offset` lies. The offset was checked by whoever made the call.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "a place outside the buffer");
        self.start.as_ptr().wrapping_add(offset)
    }

    /// The bytes, while no call is in flight.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the memory is valid for `bytes` and initialized; calls in flight are finished before the
        // harness looks, since every call of the harness is synchronous.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The bytes, to be written while no call is in flight.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Copies bytes from the same place of another buffer.
    pub(crate) fn copy_from(&self, source: &Memory, offset: usize, bytes: usize) {
        assert!(offset + bytes <= self.bytes.min(source.bytes), "a copy outside the buffers");
        // SAFETY: both ranges were just checked, and two buffers never overlap. No call is in flight.
        unsafe { std::ptr::copy_nonoverlapping(source.at(offset), self.at(offset), bytes) };
    }

    /// Writes the first `bytes` anew, as a program does that computes what it sends.
    pub(crate) fn rewrite(&self, bytes: usize) {
        assert!(bytes <= self.bytes, "more than the buffer");
        // SAFETY: the range was just checked, and no call is in flight.
        unsafe { std::ptr::write_bytes(self.at(0), 1, bytes) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &mut self.origin {
            // SAFETY: the memory came from the allocator with this very layout.
            Origin::Heap(layout) => unsafe { std::alloc::dealloc(self.start.as_ptr(), *layout) },
            Origin::Library(release) => {
                if let Some(release) = release.take() {
                    release(self.start.as_ptr());
                }
            }
        }
    }
}

/// Memory that several processes see.
pub(crate) struct SharedMap {
    start: NonNull<u8>,
    bytes: usize,
    file: File,
}

// SAFETY: the map stays where it is until it is dropped, and it is read and written only through atomics and
// through copies whose callers take turns by those atomics.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// New zeroed memory without a name; others open it by `/proc/PROCESS/fd/NUMBER`.
    pub(crate) fn create(bytes: usize) -> io::Result<SharedMap> {
        // SAFETY: the name is a C string.
        let descriptor = unsafe { libc::memfd_create(c"shoal-bench".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(descriptor) };
        file.set_len(bytes as u64)?;
        SharedMap::map(file, bytes)
    }

    /// Maps `bytes` of a file that is at least as long.
    pub(crate) fn map(file: File, bytes: usize) -> io::Result<SharedMap> {
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(SharedMap { start, bytes, file }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where other processes of this user can open it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The first `count` words.
    pub(crate) fn words(&self, count: usize) -> &[AtomicU64] {
        assert!(count * 8 <= self.bytes, "words outside the map");
        // SAFETY: the map is page-aligned, lives as long as `self`, is long enough, and any bits are a value
        // of an atomic, which others may change at any time.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<AtomicU64>(), count) }
    }

    /// Copies into the map; the caller's protocol keeps others away from these bytes meanwhile.
    pub(crate) fn copy_in(&self, offset: usize, source: &[u8]) {
        assert!(offset + source.len() <= self.bytes, "a copy outside the map");
        // SAFETY: both ranges are valid, the map is foreign to every Rust slice, so they do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(source.as_ptr(), self.start.as_ptr().add(offset), source.len());
        }
    }

    /// Copies out of the map; the caller's protocol keeps others away from these bytes meanwhile.
    pub(crate) fn copy_out(&self, offset: usize, target: &mut [u8]) {
        assert!(offset + target.len() <= self.bytes, "a copy outside the map");
        // SAFETY: as in `copy_in`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), target.as_mut_ptr(), target.len());
        }
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_can_be_had() {
        let cores = allowed_cores();
        assert!(!cores.is_empty());
        std::thread::spawn(move || pin(cores[0]).unwrap()).join().unwrap();
        assert!(pin(usize::MAX).is_err());
    }

    #[test]
    fn a_map_is_seen_through_its_path() {
        let map = SharedMap::create(8192).unwrap();
        map.copy_in(4096, b"fish");
        let file = File::options().read(true).write(true).open(map.path()).unwrap();
        let other = SharedMap::map(file, 8192).unwrap();
        let mut seen = [0; 4];
        other.copy_out(4096, &mut seen);
        assert_eq!(&seen, b"fish");
    }

    #[test]
    fn own_memory_is_read_as_another_process_would() {
        let source = *b"small fish";
        let mut target = [0; 10];
        if read_process(std::process::id(), source.as_ptr() as u64, &mut target).is_ok() {
            assert_eq!(source, target);
        }
        assert!(read_process(std::process::id(), 8, &mut target).is_err());
    }

    #[test]
    fn some_memory_is_free() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn file_systems_have_a_size() {
        let (size, free) = space(std::path::Path::new("/")).unwrap();
        assert!(size > 0 && free <= size);
        assert_eq!(space(std::path::Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn ticks_run() {
        let first = ticks();
        assert!(ticks_per_us() > 1.0);
        assert!(ticks() > first);
    }
}
