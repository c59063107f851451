//! The unique id: 128 bytes that the application hands to every rank.
//!
//! ```text
//!   0  magic            8   "shoal-id"
//!   8  protocol         2   little-endian, as all numbers here
//!  10  library version  4
//!  14  kind             1   0: made by a root that already listens
//!                           1: an address that was set by hand, and a shared secret
//!                           2: the same without a secret
//!  15  addresses        1   how many
//!  16  port             2   of all of them
//!  18  unused           2   0
//!  20  secret          32
//!  52  communicator    16
//!  68  addresses       56   each: 4, four bytes; or 6, sixteen bytes, four bytes of scope
//! 124  check            4   the beginning of the hash of all before
//! ```
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::proof::Secret;
use super::wire::{Malformed, Reader, Writer};
use crate::comm::UniqueId;
use crate::error::{Error, Result};

/// The version of the words that ranks exchange. Grows with every change of them. What stays as it is in every
/// version, so that ranks of two versions can tell all others what is wrong: the id, and of the words Hello,
/// Challenge, Proof, Failed and Refused.
pub(crate) const PROTOCOL: u16 = 3;

/// Which version somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Speaker {
    pub(crate) protocol: u16,
    /// The library's version as one number.
    pub(crate) library: u32,
}

impl Speaker {
    /// What this library is.
    pub(crate) fn own() -> Speaker {
        Speaker { protocol: PROTOCOL, library: version_number(crate::version()) }
    }

    /// The others cannot understand what else it says.
    pub(crate) fn is_foreign(self) -> bool {
        self.protocol != PROTOCOL
    }
}

impl fmt::Display for Speaker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Speaker { protocol, library } = self;
        write!(formatter, "version {} of the library (protocol {protocol})", version_text(*library))
    }
}

const MAGIC: &[u8; 8] = b"shoal-id";
const ID_BYTES: usize = 128;
const ADDRESSES_AT: usize = 68;
const CHECK_AT: usize = 124;

/// How the ranks find their root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It listens since before the id was handed out.
    Listening,
    /// Rank 0 starts it at an address set by hand.
    Address {
        /// Whether a shared secret was set beside the address.
        with_secret: bool,
    },
}

/// What a unique id says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// Who made it.
    pub(crate) maker: Speaker,
    pub(crate) origin: Origin,
    pub(crate) secret: Secret,
    pub(crate) communicator: [u8; 16],
    /// Where the root may be reached, most promising first; all have the same port.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Invitation({:?}, {:?})", self.origin, self.addresses)
    }
}

impl Invitation {
    /// The 128 bytes. Addresses beyond the room there is are left out.
    pub(crate) fn encode(&self) -> UniqueId {
        let mut addresses = Writer::default();
        let (mut count, mut used) = (0_u8, 0);
        for address in &self.addresses {
            let bytes = encode_address(address);
            if used + bytes.len() <= CHECK_AT - ADDRESSES_AT {
                addresses.raw(&bytes);
                used += bytes.len();
                count += 1;
            }
        }
        let mut writer = Writer::default();
        writer.raw(MAGIC).u16(self.maker.protocol).u32(self.maker.library);
        writer.u8(match self.origin {
            Origin::Listening => 0,
            Origin::Address { with_secret: true } => 1,
            Origin::Address { with_secret: false } => 2,
        });
        writer.u8(count).u16(self.addresses.first().map_or(0, SocketAddr::port)).u16(0);
        writer.raw(&self.secret.0).raw(&self.communicator).raw(&addresses.into_bytes());
        let written = writer.into_bytes();
        let mut id = [0; ID_BYTES];
        id[..written.len()].copy_from_slice(&written);
        let check = check(&id);
        id[CHECK_AT..].copy_from_slice(&check);
        id
    }

    /// Understands an id, on behalf of `call`.
    ///
    /// # Errors
    /// It is not one of ours, or damaged.
    pub(crate) fn parse(call: &'static str, id: &UniqueId) -> Result<Invitation> {
        let bad = |problem: &str, remedy: &str| Error::argument(call, "the unique id", problem, remedy);
        if id.iter().all(|byte| *byte == 0) {
            return Err(bad(
                "is all zeros",
                "make it on one rank with ncclGetUniqueId and hand the same 128 bytes to all ranks first",
            ));
        }
        if &id[..8] != MAGIC {
            return Err(bad(
                "was not made by this library",
                "the rank that called ncclGetUniqueId probably has another NCCL loaded; load the same library on all ranks",
            ));
        }
        if id[CHECK_AT..] != check(id) {
            return Err(bad(
                "is damaged on the way",
                "hand all of its 128 bytes to every rank, as bytes, not as text",
            ));
        }
        Self::fields(id).map_err(|Malformed(rule)| {
            bad(&format!("cannot be understood: {rule}"), "load the same version on all ranks")
        })
    }

    fn fields(id: &UniqueId) -> std::result::Result<Invitation, Malformed> {
        let mut reader = Reader::new(&id[MAGIC.len()..CHECK_AT]);
        let maker = Speaker { protocol: reader.u16()?, library: reader.u32()? };
        let origin = match reader.u8()? {
            0 => Origin::Listening,
            1 => Origin::Address { with_secret: true },
            2 => Origin::Address { with_secret: false },
            _ => return Err(Malformed("its kind is unknown")),
        };
        let count = reader.u8()?;
        let port = reader.u16()?;
        reader.u16()?;
        let (secret, communicator) = (Secret(reader.array()?), reader.array()?);
        let addresses = (0..count)
            .map(|_| decode_address(&mut reader, port))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        if addresses.is_empty() && origin == Origin::Listening {
            return Err(Malformed("it names no address"));
        }
        Ok(Invitation { maker, origin, secret, communicator, addresses })
    }
}

fn check(id: &UniqueId) -> [u8; 4] {
    blake3::hash(&id[..CHECK_AT]).as_bytes()[..4].try_into().expect("4 of 32 bytes")
}

pub(crate) fn encode_address(address: &SocketAddr) -> Vec<u8> {
    let mut writer = Writer::default();
    match address {
        SocketAddr::V4(v4) => writer.u8(4).raw(&v4.ip().octets()),
        SocketAddr::V6(v6) => writer.u8(6).raw(&v6.ip().octets()).u32(v6.scope_id()),
    };
    writer.into_bytes()
}

pub(crate) fn decode_address(
    reader: &mut Reader<'_>,
    port: u16,
) -> std::result::Result<SocketAddr, Malformed> {
    match reader.u8()? {
        4 => Ok(SocketAddrV4::new(Ipv4Addr::from(reader.array::<4>()?), port).into()),
        6 => {
            let ip = Ipv6Addr::from(reader.array::<16>()?);
            Ok(SocketAddrV6::new(ip, port, 0, reader.u32()?).into())
        }
        _ => Err(Malformed("an address in it is of an unknown family")),
    }
}

/// `host:port`, `ip:port`, `[v6]:port` or `[v6%scope]:port` in its two parts.
pub(crate) fn split_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        // Several colons without brackets cannot be told from a port.
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some((host, port))
}

/// Whether an address means something on its own link only.
pub(crate) fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

fn version_number(text: &str) -> u32 {
    text.split('.').fold(0, |number, part| number * 100 + part.parse().unwrap_or(0))
}

/// A version number as people write it.
pub(crate) fn version_text(version: u32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::bootstrap::tests::{Random, campaign};

    fn invitation() -> Invitation {
        Invitation {
            maker: Speaker { protocol: 9, library: 70_000 },
            origin: Origin::Listening,
            secret: Secret([7; 32]),
            communicator: [8; 16],
            addresses: vec![
                "127.0.0.1:4000".parse().unwrap(),
                "10.1.2.3:4000".parse().unwrap(),
                SocketAddrV6::new("fe80::1".parse().unwrap(), 4000, 0, 3).into(),
            ],
        }
    }

    #[test]
    fn comes_back_as_it_was() {
        for origin in
            [Origin::Listening, Origin::Address { with_secret: true }, Origin::Address { with_secret: false }]
        {
            let invitation = Invitation { origin, ..invitation() };
            assert_eq!(Invitation::parse("test", &invitation.encode()), Ok(invitation));
        }
    }

    #[test]
    fn addresses_that_do_not_fit_are_left_out() {
        let mut invitation = invitation();
        invitation.addresses = (0..20_u8).map(|i| SocketAddr::from(([10, 0, 0, i], 9))).collect();
        let parsed = Invitation::parse("test", &invitation.encode()).unwrap();
        assert_eq!(parsed.addresses, invitation.addresses[..11]);
    }

    #[test]
    fn strangers_are_told_what_to_do() {
        let text = |id: &UniqueId| Invitation::parse("ncclCommInitRank", id).unwrap_err().to_string();
        assert!(text(&[0; 128]).contains("all zeros"));
        assert!(text(&[9; 128]).contains("another NCCL"));
        let good = invitation().encode();
        // What a program does that copies the id as a C string.
        let mut cut = good;
        cut[60..].fill(0);
        assert!(text(&cut).contains("damaged"));
        assert!(matches!(Invitation::parse("test", &[9; 128]), Err(Error::Argument { .. })));
    }

    #[test]
    fn any_damage_is_seen_and_nothing_panics() {
        let mut random = Random(5);
        let good = invitation().encode();
        for _ in 0..campaign(5000, 300_000) {
            let mut id = good;
            id[random.below(128)] ^= 1 << random.below(8);
            assert!(Invitation::parse("test", &id).is_err());
            // Garbage with a right magic, version and check reaches the fields.
            for byte in &mut id[10..] {
                *byte = random.below(256) as u8;
            }
            id[14] %= 4;
            id[15] %= 16;
            id[68] = [4, 6, 5][random.below(3)];
            id[..10].copy_from_slice(&good[..10]);
            let check = check(&id);
            id[CHECK_AT..].copy_from_slice(&check);
            if let Ok(parsed) = Invitation::parse("test", &id) {
                assert!(parsed.addresses.len() <= 11);
            }
        }
    }

    #[test]
    fn addresses_as_text() {
        assert_eq!(split_address("10.0.0.1:99"), Some(("10.0.0.1", 99)));
        assert_eq!(split_address("[fe80::1%eth0]:99"), Some(("fe80::1%eth0", 99)));
        assert_eq!(split_address("node-3:99"), Some(("node-3", 99)));
        for bad in ["", "10.0.0.1", "fe80::1:99", ":99", "a:b", "a:70000", "[::1:9"] {
            assert_eq!(split_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version_text(version_number("1.20.3")), "1.20.3");
    }
}
