//! Where this process is reached, as the settings ask for it.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use super::id;
use super::interfaces::{self, Family, Links};
use super::porch::Porch;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::system::fork::Unshared;
use crate::system::socket;
use crate::trace::log;

const CALL: &str = "ncclCommInitRank";

/// What is known of this machine's links, and which addresses count.
pub(super) fn links(config: &Config) -> Result<Links> {
    let family = Family::parse(&config.socket_family).ok_or_else(|| {
        Error::argument(
            CALL,
            "NCCL_SOCKET_FAMILY (or SHOAL_SOCKET_FAMILY)",
            format!("is {}", config.socket_family),
            "use AF_INET or AF_INET6, or leave it unset for both",
        )
    })?;
    // Without a list of interfaces ranks of this host still meet.
    Ok(Links { own: socket::interfaces().unwrap_or_default(), family })
}

/// The devices that the network between hosts may use, separated by commas, and whether a setting names them; none for
/// all. The reason is logged.
///
/// # Errors
/// A setting that says nothing.
pub fn network_devices(config: &Config) -> Result<(String, bool)> {
    let setting = config.net_devices.trim();
    if !setting.is_empty() {
        log::info(format_args!("UCX may use {setting}: SHOAL_NET_DEVICES or UCX_NET_DEVICES says so"));
        return Ok((setting.to_owned(), true));
    }
    let (devices, why) = interfaces::devices(&config.socket_ifname, &links(config)?, &fabrics());
    let devices = devices.join(",");
    let shown = if devices.is_empty() { "all devices" } else { &devices };
    log::info(format_args!("UCX may use {shown}: {why}"));
    Ok((devices, !config.socket_ifname.trim().is_empty()))
}

/// The ports of InfiniBand and RoCE devices, as UCX names them.
fn fabrics() -> Vec<String> {
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    const CLASS: &str = "/sys/class/infiniband";
    let ports = |device: String| {
        let ports = names(&format!("{CLASS}/{device}/ports"));
        ports.into_iter().map(move |port| format!("{device}:{port}"))
    };
    let mut fabrics: Vec<String> = names(CLASS).into_iter().flat_map(ports).collect();
    fabrics.sort();
    fabrics
}

/// Where this process would be reached; nothing is left open.
pub(super) fn offered(config: &Config) -> Result<Vec<SocketAddr>> {
    listen(config.socket_ifname.trim(), &links(config)?).map(|(_, addresses)| addresses)
}

/// This process's place to meet, by these settings.
pub(super) fn open(config: &Config) -> Result<Arc<Porch>> {
    let key = format!("{} {}", config.socket_family.trim(), config.socket_ifname.trim());
    Porch::open(&key, || {
        let opened = listen(config.socket_ifname.trim(), &links(config)?)?;
        let addresses: Vec<String> = opened.1.iter().map(ToString::to_string).collect();
        log::info(format_args!("other ranks reach this process at {}", addresses.join(", ")));
        Ok(opened)
    })
}

/// Listeners at one port of the system's choice, and where they may be reached.
fn listen(ifname: &str, links: &Links) -> Result<(Vec<Unshared<TcpListener>>, Vec<SocketAddr>)> {
    if !ifname.is_empty() && !ifname.starts_with('^') {
        return listen_at_named(ifname, links);
    }
    let any = |ip: IpAddr| socket::listen(SocketAddr::new(ip, 0));
    let listener = match links.family {
        Family::V4 => any(Ipv4Addr::UNSPECIFIED.into()),
        Family::V6 => any(Ipv6Addr::UNSPECIFIED.into()),
        Family::Any => any(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| any(Ipv4Addr::UNSPECIFIED.into())),
    };
    let listener = listener.map_err(failed)?;
    let own = listener.local_addr().map_err(failed)?;
    let offered = interfaces::offered(ifname, links, own.port(), own.is_ipv6());
    Ok((vec![listener], offered))
}

/// At the addresses of the named interfaces and at no others.
fn listen_at_named(ifname: &str, links: &Links) -> Result<(Vec<Unshared<TcpListener>>, Vec<SocketAddr>)> {
    let wanted = interfaces::named(ifname, links);
    let mut names: Vec<&str> = links.own.iter().map(|interface| interface.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut cause = format!("no interface that is up fits SHOAL_SOCKET_IFNAME={ifname}");
    let (mut listeners, mut offered) = (Vec::new(), Vec::new());
    let mut port = 0;
    for mut address in wanted {
        address.set_port(port);
        let opened = socket::listen(address).and_then(|l| Ok((l.local_addr()?, l)));
        match opened {
            Ok((own, listener)) => {
                port = own.port();
                address.set_port(port);
                offered.push(address);
                listeners.push(listener);
            }
            Err(error) => {
                cause = format!("{address}: {error}");
                log::info(format_args!("nobody will be met at {cause}"));
            }
        }
    }
    if listeners.is_empty() {
        let remedy = format!("name one of {}", names.join(", "));
        return Err(Error::system("opening a socket for ranks to meet", cause, remedy));
    }
    Ok((listeners, offered))
}

fn failed(cause: io::Error) -> Error {
    Error::refused(
        "opening a socket for ranks to meet",
        &cause,
        "sockets",
        "raise the limit of open files (ulimit -n), or set SHOAL_SOCKET_IFNAME to an interface that works",
    )
}

/// What an address set by hand means here.
pub(super) fn resolve(call: &'static str, text: &str) -> Result<Vec<SocketAddr>> {
    let remedy = "write an address or a name of rank 0's host and a free port there, like 10.0.0.1:5000";
    let bad = |problem: String| Error::argument(call, "NCCL_COMM_ID (or SHOAL_COMM_ID)", problem, remedy);
    let parts = id::split_address(text).ok_or_else(|| bad(format!("is {text}")))?;
    let addresses: Vec<SocketAddr> =
        parts.to_socket_addrs().map_err(|cause| bad(format!("is {text}: {cause}")))?.collect();
    if addresses.is_empty() { Err(bad(format!("is {text}, which leads nowhere"))) } else { Ok(addresses) }
}
