//! Which addresses the root offers, and which a member tries. Pure.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::id::is_link_local;
use crate::system::socket::Interface;

/// Interfaces that lead to containers and virtual machines of this host; offered last.
const INNER_PREFIXES: [&str; 6] = ["docker", "br-", "veth", "virbr", "cni", "flannel"];
/// So many IPv4 addresses leave room in an id for one of IPv6.
const IPV4_MAX: usize = 6;

/// Which addresses count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Family {
    #[default]
    Any,
    V4,
    V6,
}

impl Family {
    /// As NCCL names them.
    pub(crate) fn parse(setting: &str) -> Option<Family> {
        match setting.trim() {
            "" => Some(Family::Any),
            "AF_INET" => Some(Family::V4),
            "AF_INET6" => Some(Family::V6),
            _ => None,
        }
    }

    fn fits(self, ip: &IpAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => ip.is_ipv4(),
            Family::V6 => ip.is_ipv6(),
        }
    }
}

/// This machine's interfaces, and which addresses count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    pub(crate) own: Vec<Interface>,
    pub(crate) family: Family,
}

impl Links {
    /// Those that count; all if none does, since they are all that there is to try.
    pub(crate) fn of_family(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let some: Vec<SocketAddr> =
            addresses.iter().filter(|address| self.family.fits(&address.ip())).copied().collect();
        if some.is_empty() { addresses } else { some }
    }
}

/// The interfaces that a setting allows: names by their beginnings, separated by commas; `=` before all asks for
/// whole names, `^` before all excludes. Kept in the order of the setting, else of the system.
pub(crate) fn allowed<'a>(interfaces: &'a [Interface], setting: &str) -> Vec<&'a Interface> {
    let setting = setting.trim();
    let (excludes, rest) = setting.strip_prefix('^').map_or((false, setting), |rest| (true, rest));
    let (exact, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
    let names: Vec<&str> = rest.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let matches = |interface: &Interface, name: &str| {
        if exact { interface.name == name } else { interface.name.starts_with(name) }
    };
    if excludes || names.is_empty() {
        return interfaces.iter().filter(|i| !names.iter().any(|name| matches(i, name))).collect();
    }
    let mut chosen: Vec<&Interface> = Vec::new();
    for name in names {
        for interface in interfaces.iter().filter(|interface| matches(interface, name)) {
            if !chosen.contains(&interface) {
                chosen.push(interface);
            }
        }
    }
    chosen
}

/// The addresses to listen at if a setting names interfaces, most promising first: in the order of the setting,
/// lines that are down behind all others, IPv4 before IPv6.
pub(crate) fn named(setting: &str, links: &Links) -> Vec<SocketAddr> {
    let mut chosen = allowed(&links.own, setting);
    chosen.retain(|interface| links.family.fits(&interface.address));
    let place = |interface: &Interface| {
        let first = chosen.iter().position(|other| other.name == interface.name);
        (!interface.running, first, interface.address.is_ipv6(), is_link_local(&interface.address))
    };
    let mut ordered = chosen.clone();
    ordered.sort_by_key(|interface| place(interface));
    ordered.into_iter().map(|interface| with_port(interface, 0)).collect()
}

/// Where a process that listens at all addresses may be reached, most promising first: from this host, from
/// other hosts by IPv4, by IPv6, and only then by what leads to containers or is down.
pub(crate) fn offered(setting: &str, links: &Links, port: u16, ipv6: bool) -> Vec<SocketAddr> {
    let interfaces = allowed(&links.own, setting);
    let last = |interface: &Interface| {
        !interface.running || INNER_PREFIXES.iter().any(|prefix| interface.name.starts_with(prefix))
    };
    let outside = || interfaces.iter().filter(|interface| !interface.loopback);
    let v4 = |i: &&&Interface| i.address.is_ipv4() && links.family != Family::V6;
    let v6 = |i: &&&Interface| ipv6 && i.address.is_ipv6() && links.family != Family::V4;
    let here: IpAddr =
        if links.family == Family::V6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let mut offered = vec![SocketAddr::from((here, port))];
    offered.extend(outside().filter(v4).filter(|i| !last(i)).map(|i| with_port(i, port)).take(IPV4_MAX - 1));
    let global = outside().filter(v6).filter(|i| !is_link_local(&i.address) && !last(i));
    let link_local = outside().filter(v6).filter(|i| is_link_local(&i.address) && !last(i));
    offered.extend(global.chain(link_local).map(|i| with_port(i, port)));
    offered.extend(outside().filter(v4).filter(|i| last(i)).map(|i| with_port(i, port)));
    offered.extend(outside().filter(v6).filter(|i| last(i)).map(|i| with_port(i, port)));
    offered
}

/// The devices for the network between hosts, and why these: interfaces that the setting allows, and the ports of
/// `fabrics` (InfiniBand, RoCE), which no interface's name stands for. None for all there are.
pub(crate) fn devices(setting: &str, links: &Links, fabrics: &[String]) -> (Vec<String>, &'static str) {
    let setting = setting.trim();
    let is_inner = |interface: &Interface| {
        interface.loopback || INNER_PREFIXES.iter().any(|prefix| interface.name.starts_with(prefix))
    };
    let mut names: Vec<String> = Vec::new();
    for interface in allowed(&links.own, setting) {
        let fits = if setting.is_empty() { !is_inner(interface) } else { true };
        if fits && interface.running && !names.contains(&interface.name) {
            names.push(interface.name.clone());
        }
    }
    if names.is_empty() {
        return (names, "no interface leads out of this machine");
    }
    names.extend(fabrics.iter().cloned());
    let why =
        if setting.is_empty() { "they lead out of this machine" } else { "SHOAL_SOCKET_IFNAME says so" };
    (names, why)
}

/// What a member tries for the addresses of an id. An address of a link only is tried on every link of ours,
/// since the maker's number of the link means nothing here.
pub(crate) fn tried(addresses: &[SocketAddr], links: &Links) -> Vec<SocketAddr> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        tried.push(*address);
        let SocketAddr::V6(v6) = address else { continue };
        if is_link_local(&address.ip()) {
            let scopes = links.own.iter().filter(|interface| !interface.loopback && interface.scope != 0);
            tried
                .extend(scopes.map(|i| SocketAddr::from(SocketAddrV6::new(*v6.ip(), v6.port(), 0, i.scope))));
        }
    }
    let mut seen = Vec::new();
    tried.retain(|address| {
        let new = !seen.contains(address);
        seen.push(*address);
        new
    });
    links.of_family(tried)
}

fn with_port(interface: &Interface, port: u16) -> SocketAddr {
    match interface.address {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, interface.scope).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, address: &str, scope: u32) -> Interface {
        Interface {
            name: name.into(),
            address: address.parse().unwrap(),
            scope,
            loopback: name == "lo",
            running: name != "down0",
        }
    }

    fn machine() -> Vec<Interface> {
        vec![
            interface("lo", "127.0.0.1", 0),
            interface("docker0", "172.17.0.1", 0),
            interface("eth0", "10.0.0.5", 0),
            interface("eth1", "10.0.1.5", 0),
            interface("ib0", "192.168.0.5", 0),
            interface("down0", "10.3.0.1", 0),
            interface("lo", "::1", 0),
            interface("eth0", "2001:db8::5", 0),
            interface("eth0", "fe80::5", 2),
        ]
    }

    #[test]
    fn settings_choose_interfaces() {
        let machine = machine();
        let names = |setting: &str| {
            let mut names: Vec<_> = allowed(&machine, setting).iter().map(|i| i.name.as_str()).collect();
            names.dedup();
            names.join(" ")
        };
        assert_eq!(names("ib,eth"), "ib0 eth0 eth1 eth0");
        assert_eq!(names("=eth1"), "eth1");
        assert_eq!(names("=eth"), "");
        assert_eq!(names("^docker,lo,down"), "eth0 eth1 ib0 eth0");
        assert_eq!(names("^=eth"), names(""));
        let named = |setting: &str, family: Family| {
            let links = Links { own: machine.clone(), family };
            let named: Vec<String> = named(setting, &links).iter().map(ToString::to_string).collect();
            named.join(" ")
        };
        let any = Family::Any;
        assert_eq!(named("eth", any), "10.0.0.5:0 [2001:db8::5]:0 [fe80::5%2]:0 10.0.1.5:0");
        assert_eq!(named("eth", Family::V4), "10.0.0.5:0 10.0.1.5:0");
        assert_eq!(named("down,=ib0,eth1", any), "10.0.1.5:0 10.3.0.1:0");
        assert_eq!(named("lo", Family::V6), "[::1]:0");
        assert_eq!(named("wlan", any), "");
    }

    #[test]
    fn devices_lead_out_unless_somebody_names_others() {
        let links = Links { own: machine(), family: Family::Any };
        let of = |setting: &str, fabrics: &[String]| devices(setting, &links, fabrics).0.join(",");
        assert_eq!(of("", &[]), "eth0,eth1,ib0");
        assert_eq!(of("", &["mlx5_0:1".into()]), "eth0,eth1,ib0,mlx5_0:1");
        assert_eq!(of("=lo", &[]), "lo");
        assert_eq!(of("^eth,ib", &[]), "lo,docker0");
        assert_eq!(of("wlan", &["mlx5_0:1".into()]), "");
    }

    #[test]
    fn this_host_comes_first_and_containers_last() {
        let texts = |family| -> Vec<String> {
            let links = Links { own: machine(), family };
            offered("", &links, 7, true).iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(Family::V6), ["[::1]:7", "[2001:db8::5]:7", "[fe80::5%2]:7"]);
        assert_eq!(texts(Family::V4)[1..3], ["10.0.0.5:7", "10.0.1.5:7"]);
        assert_eq!(
            texts(Family::Any),
            [
                "127.0.0.1:7",
                "10.0.0.5:7",
                "10.0.1.5:7",
                "192.168.0.5:7",
                "[2001:db8::5]:7",
                "[fe80::5%2]:7",
                "172.17.0.1:7",
                "10.3.0.1:7"
            ]
        );
    }

    #[test]
    fn links_are_tried_by_our_own_numbers() {
        let theirs: SocketAddr = SocketAddrV6::new("fe80::9".parse().unwrap(), 7, 0, 2).into();
        let own =
            [interface("lo", "::1", 0), interface("eth0", "fe80::5", 4), interface("eth1", "fe80::6", 2)];
        let tried: Vec<String> = tried(&[theirs], &Links { own: own.to_vec(), family: Family::Any })
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(tried, ["[fe80::9%2]:7", "[fe80::9%4]:7"]);
    }
}
