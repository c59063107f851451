//! The few system calls of the exchange that the standard library does not offer: connecting and listening
//! without blocking, waiting for many sockets, interfaces, random bytes, a thread that takes no signals.
//! The only file of the exchange with unsafe code; it knows nothing of the exchange.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::fork::Unshared;

/// An address of an interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// The interface's number where the address means something on its link only, else 0.
    pub(crate) scope: u32,
    pub(crate) loopback: bool,
    /// Something answers at its other end, as far as the system knows.
    pub(crate) running: bool,
}

/// What to wait for on one descriptor.
pub(crate) use libc::pollfd as Interest;

pub(crate) const READABLE: i16 = libc::POLLIN;
pub(crate) const WRITABLE: i16 = libc::POLLOUT;

/// An interest in `events` of `socket`, for [`wait`].
pub(crate) fn interest(socket: &impl AsRawFd, events: i16) -> Interest {
    Interest { fd: socket.as_raw_fd(), events, revents: 0 }
}

/// Sleeps until something of interest happens (`revents` then says what) or the time is over.
pub(crate) fn wait(interests: &mut [Interest], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a wait never ends before its time and spins.
    let timeout_ms = timeout.map_or(-1, |timeout| {
        let ms = timeout.as_micros().div_ceil(1000);
        libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX)
    });
    let count = libc::nfds_t::try_from(interests.len()).map_err(io::Error::other)?;
    // SAFETY: `interests` is exclusively borrowed and has `count` elements, all initialized; poll writes only
    // their `revents`.
    let ready = unsafe { libc::poll(interests.as_mut_ptr(), count, timeout_ms) };
    if ready >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// A socket that listens at `address`, does not block, and closes on exec. With an IPv6 wildcard it takes
/// IPv4 too.
pub(crate) fn listen(address: SocketAddr) -> io::Result<Unshared<TcpListener>> {
    const BACKLOG: libc::c_int = 4096;
    let socket = stream_socket(address)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        let only = libc::c_int::from(!address.ip().is_unspecified());
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only)?;
    }
    let (storage, bytes) = system_address(address);
    // SAFETY: `storage` holds an initialized address of `bytes` bytes and outlives the call; the descriptor is
    // ours and open.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), bytes) })?;
    // SAFETY: plain numbers; the descriptor is ours and open.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(Unshared::new(TcpListener::from(socket)))
}

/// Closes a listener such that nobody can connect even if a child that was forked in this very moment has a copy of
/// it, and that its port can be used again.
pub(crate) fn stop_listening(listener: Unshared<TcpListener>) {
    // SAFETY: plain numbers; the descriptor is open until the end of this function. A failure changes nothing.
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Begins to connect to `address`. The socket does not block; it is writable when the attempt has ended, and
/// [`TcpStream::take_error`] says how.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = stream_socket(address)?;
    let (storage, bytes) = system_address(address);
    // SAFETY: as for bind above.
    let result = check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), bytes) });
    match result {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(socket)),
    }
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(family, kind, 0) };
    check(socket)?;
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
    // SAFETY: `value` lives during the call and has the size that is passed.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), bytes) })
}

/// Has the system ask the system at the other side of `stream` every second while nothing is said, and give up when
/// that does not answer. A process that is stopped is answered for.
pub(crate) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    for (level, option, value) in [
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    ] {
        set_option(stream, level, option, value)?;
    }
    Ok(())
}

/// How long ago the system at the other side of `stream` last answered.
pub(crate) fn last_answer(stream: &TcpStream) -> io::Result<Duration> {
    // SAFETY: all zeros is a value of this struct of integers.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut bytes = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    // SAFETY: the place has as many bytes as are passed, and both live during the call.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut bytes,
        )
    })?;
    Ok(Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The address as the system wants it, and how many bytes of it count.
fn system_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let bytes = match address {
        SocketAddr::V4(v4) => {
            let system = libc::sockaddr_in {
                sin_family: family_number(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is as large and as aligned as any address, and exclusively ours.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(system) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let system = libc::sockaddr_in6 {
                sin6_family: family_number(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(system) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, libc::socklen_t::try_from(bytes).expect("addresses are small"))
}

fn family_number(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("families are small numbers")
}

/// The internet addresses of all interfaces that are up, in the system's order.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call writes one pointer to `first`.
    check(unsafe { libc::getifaddrs(&raw mut first) })?;
    let mut found = Vec::new();
    let mut at = first;
    while !at.is_null() {
        // SAFETY: `at` is `first` or a `ifa_next` of its list, which lives until freeifaddrs below.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        let flags = libc::c_int::from_ne_bytes(entry.ifa_flags.to_ne_bytes());
        if flags & libc::IFF_UP == 0 || entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: `ifa_addr` is not null and the list is alive.
        let Some((address, scope)) = (unsafe { internet_address(entry.ifa_addr) }) else { continue };
        // SAFETY: the name is a C string of the same list.
        let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        let loopback = flags & libc::IFF_LOOPBACK != 0;
        let running = flags & libc::IFF_RUNNING != 0;
        found.push(Interface { name, address, scope, loopback, running });
    }
    // SAFETY: `first` came from getifaddrs, is freed once, and nothing borrowed from the list is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// # Safety
/// `address` points to a socket address that is as long as its family says.
unsafe fn internet_address(address: *const libc::sockaddr) -> Option<(IpAddr, u32)> {
    // SAFETY: every socket address begins with its family.
    match libc::c_int::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one of these; it may be unaligned in the list.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some((Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into(), 0))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some((Ipv6Addr::from(v6.sin6_addr.s6_addr).into(), v6.sin6_scope_id))
        }
        _ => None,
    }
}

/// Bytes from the system's random source.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is exclusively borrowed and as long as is passed.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}

/// Starts a detached thread in which no signal is handled, so that it never runs the application's handlers.
pub(crate) fn spawn_quiet(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    const STACK_BYTES: usize = 512 << 10;
    // SAFETY: all zeros is valid storage for a signal set, which sigfillset then initializes.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (zeroed(), zeroed()) };
    // SAFETY: both sets live on this stack; the calls change this thread's mask only. The new thread inherits
    // the mask in force while it is made.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    let spawned = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(body);
    // SAFETY: `before` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    spawned.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn connects_over_both_families() {
        let listener =
            listen("[::]:0".parse().unwrap()).or_else(|_| listen("0.0.0.0:0".parse().unwrap())).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream = connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        wait(&mut [interest(&stream, WRITABLE)], Some(Duration::from_secs(5))).unwrap();
        assert!(stream.take_error().unwrap().is_none());
        wait(&mut [interest(&*listener, READABLE)], Some(Duration::from_secs(5))).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        accepted.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        accepted.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn nobody_listening_is_refused() {
        let port = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap().port();
        let refused = connect(SocketAddr::from(([127, 0, 0, 1], port))).and_then(|stream| {
            wait(&mut [interest(&stream, WRITABLE)], Some(Duration::from_secs(5)))?;
            stream.take_error()?.map_or(Ok(()), Err)
        });
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn there_is_a_loopback_interface() {
        assert!(interfaces().unwrap().iter().any(|interface| interface.loopback));
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<32>().unwrap(), random_bytes::<32>().unwrap());
    }
}
