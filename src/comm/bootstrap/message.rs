//! The words that the root and its members exchange.
//!
//! ```text
//! member                       root
//!   Hello (nonce)      ->                who is this for, and of which version
//!                      <-  Challenge     the root's nonce, and its proof over both
//!   Proof, Card        ->                the member's proof, and what it says of itself
//!                      <-  Progress      once a second, who is still missing
//!                      <-  Introduction  who stands above and under it, when all came
//!   Leave              ->                when it has met the others
//!
//! rank                         the rank above it
//!   Hello              ->
//!                      <-  Challenge
//!   Proof, Attach      ->                which of those under it this is
//!   Contribute         ->                the parts of all that stand under the sender, itself first
//!                      <-  Gathered      all parts of a step; any number of steps, the first one of cards
//!   Waiting            <-> Waiting       for whom, while a step takes long
//!   Leave              <-> Leave
//! ```
//! At any time: `Fail` to the root from a member that cannot go on, `Failed` to all; `Refused` to who has no
//! business here, `Later` to who belongs to another birth at this address.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use super::id::{Speaker, decode_address, encode_address};
use super::proof::Nonce;
use super::wire::{Malformed, Reader, Writer, frame};
use crate::error::Error;
use crate::topology::{Card, DeviceKind};

/// The most bytes that a rank adds to its card or to one step.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// The most ranks of a communicator.
pub(crate) const RANKS_MAX: u32 = 1 << 20;
/// The most bytes of a body from someone who has proved nothing.
pub(crate) const STRANGER_BODY_BYTES_MAX: usize = 128;
/// The most bytes of a body from a member.
pub(crate) const MEMBER_BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + CARD_FIXED_BYTES_MAX;

const MAGIC: &[u8; 8] = b"shoal-bs";
const TEXT_BYTES_MAX: usize = 255;
const CARD_FIXED_BYTES_MAX: usize = 128 + 4 * (TEXT_BYTES_MAX + 4) + ADDRESSES_BYTES_MAX;
/// The most bytes of the addresses of one process; more are left out.
const ADDRESSES_BYTES_MAX: usize = 256;
/// The most bytes of what went wrong; longer texts are cut.
const REASON_BYTES_MAX: usize = 4096;
/// The most ranks that a neighbour is told for whom one waits; the others come up as these come.
const WAITING_MAX: usize = 256;

/// The most bytes of a body with `count` parts or cards, or with a text.
pub(crate) fn list_bytes_max(count: usize) -> usize {
    64 + REASON_BYTES_MAX + 4 * WAITING_MAX + count * (MEMBER_BODY_BYTES_MAX + 4)
}

/// Of which kind a failure is; decides the error that every rank returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// A rank is gone or gave up.
    Remote,
    /// Ranks were started differently.
    Mismatch,
    /// Ranks did not come in time.
    Timeout,
}

/// Why the ranks cannot go on; the same on all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure { kind, text: text.into() }
    }

    /// The same error on another rank.
    pub(crate) fn from_error(error: &Error) -> Failure {
        let kind = match error {
            Error::Mismatch(_) => FailureKind::Mismatch,
            Error::Timeout(_) => FailureKind::Timeout,
            _ => FailureKind::Remote,
        };
        Failure::new(kind, error.to_string())
    }

    pub(crate) fn into_error(self) -> Error {
        match self.kind {
            FailureKind::Remote => Error::Remote(self.text),
            FailureKind::Mismatch => Error::Mismatch(self.text),
            FailureKind::Timeout => Error::Timeout(self.text),
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Hello {
        speaker: Speaker,
        communicator: [u8; 16],
        /// The other side may not expect it yet.
        early: bool,
        nonce: Nonce,
    },
    Challenge {
        nonce: Nonce,
        proof: [u8; 32],
    },
    Proof {
        proof: [u8; 32],
    },
    Card {
        bound_ms: u64,
        /// By how many ids the ranks meet, and which of them this is.
        groups: u32,
        group: u32,
        card: Card,
    },
    /// What makes this birth differ from all others, and who stands above and under the receiver, with itself.
    Introduction {
        birth: Nonce,
        cards: Vec<Card>,
    },
    /// Who its sender is among those that stand under the receiver.
    Attach {
        rank: u32,
    },
    Contribute {
        step: u32,
        parts: Vec<Vec<u8>>,
    },
    Gathered {
        step: u32,
        parts: Vec<Vec<u8>>,
    },
    Fail {
        text: String,
    },
    Failed(Failure),
    Progress {
        text: String,
    },
    /// For whom its sender waits in this step.
    Waiting {
        step: u32,
        ranks: Vec<u32>,
    },
    /// The place is taken in this birth; there may be another.
    Later {
        text: String,
    },
    Refused {
        /// It is of no use to come again.
        gone: bool,
        text: String,
    },
    Leave,
}

impl Message {
    /// The frame that carries it, made once and shared by all who get it.
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut writer = Writer::default();
        match self {
            Message::Hello { speaker, communicator, early, nonce } => {
                writer.u8(1).raw(MAGIC).u16(speaker.protocol).u32(speaker.library);
                writer.raw(communicator).u8(u8::from(*early)).raw(nonce)
            }
            Message::Challenge { nonce, proof } => writer.u8(2).raw(nonce).raw(proof),
            Message::Proof { proof } => writer.u8(3).raw(proof),
            Message::Card { bound_ms, groups, group, card } => {
                writer.u8(4).u64(*bound_ms).u32(*groups).u32(*group);
                encode_card(&mut writer, card);
                &mut writer
            }
            Message::Introduction { birth, cards } => {
                writer.u8(5).raw(birth).u32(count_of(cards));
                cards.iter().for_each(|card| encode_card(&mut writer, card));
                &mut writer
            }
            Message::Contribute { step, parts } | Message::Gathered { step, parts } => {
                let kind = if matches!(self, Message::Contribute { .. }) { 6 } else { 7 };
                writer.u8(kind).u32(*step).u32(count_of(parts));
                parts.iter().fold(&mut writer, |writer, part| writer.block(part))
            }
            Message::Fail { text } => writer.u8(8).block(cut(text)),
            Message::Failed(failure) => {
                let kind = match failure.kind {
                    FailureKind::Remote => 0,
                    FailureKind::Mismatch => 1,
                    FailureKind::Timeout => 2,
                };
                writer.u8(9).u8(kind).block(cut(&failure.text))
            }
            Message::Progress { text } => writer.u8(10).block(cut(text)),
            Message::Refused { gone, text } => writer.u8(11).u8(u8::from(*gone)).block(cut(text)),
            Message::Leave => writer.u8(12),
            Message::Attach { rank } => writer.u8(13).u32(*rank),
            Message::Waiting { step, ranks } => {
                let ranks = &ranks[..ranks.len().min(WAITING_MAX)];
                writer.u8(14).u32(*step).u32(count_of(ranks));
                ranks.iter().fold(&mut writer, |writer, rank| writer.u32(*rank))
            }
            Message::Later { text } => writer.u8(15).block(cut(text)),
        };
        frame(&writer.into_bytes()).into()
    }

    /// Understands the body of a frame.
    pub(crate) fn decode(body: &[u8]) -> Result<Message, Malformed> {
        let mut reader = Reader::new(body);
        let message = match reader.u8()? {
            1 => return decode_hello(&mut reader),
            2 => Message::Challenge { nonce: reader.array()?, proof: reader.array()? },
            3 => Message::Proof { proof: reader.array()? },
            4 => Message::Card {
                bound_ms: reader.u64()?,
                groups: reader.u32()?,
                group: reader.u32()?,
                card: decode_card(&mut reader)?,
            },
            5 => Message::Introduction {
                birth: reader.array()?,
                cards: decode_list(&mut reader, decode_card)?,
            },
            6 => Message::Contribute { step: reader.u32()?, parts: decode_list(&mut reader, decode_part)? },
            7 => Message::Gathered { step: reader.u32()?, parts: decode_list(&mut reader, decode_part)? },
            8 => Message::Fail { text: reader.text(REASON_BYTES_MAX)? },
            9 => {
                let kind = match reader.u8()? {
                    0 => FailureKind::Remote,
                    1 => FailureKind::Mismatch,
                    2 => FailureKind::Timeout,
                    _ => return Err(Malformed("its kind of failure is unknown")),
                };
                Message::Failed(Failure { kind, text: reader.text(REASON_BYTES_MAX)? })
            }
            10 => Message::Progress { text: reader.text(REASON_BYTES_MAX)? },
            11 => Message::Refused { gone: reader.u8()? != 0, text: reader.text(REASON_BYTES_MAX)? },
            12 => Message::Leave,
            13 => Message::Attach { rank: reader.u32()? },
            14 => Message::Waiting {
                step: reader.u32()?,
                ranks: decode_list(&mut reader, |reader| reader.u32())?,
            },
            15 => Message::Later { text: reader.text(REASON_BYTES_MAX)? },
            _ => return Err(Malformed("its kind is unknown")),
        };
        reader.end()?;
        Ok(message)
    }
}

fn decode_hello(reader: &mut Reader<'_>) -> Result<Message, Malformed> {
    if &reader.array::<8>()? != MAGIC {
        return Err(Malformed("it does not begin as a hello does"));
    }
    let speaker = Speaker { protocol: reader.u16()?, library: reader.u32()? };
    let (communicator, early, nonce) = (reader.array()?, reader.u8()? != 0, reader.array()?);
    // Other versions may say more.
    if !speaker.is_foreign() {
        reader.end()?;
    }
    Ok(Message::Hello { speaker, communicator, early, nonce })
}

/// A list's memory grows with the bytes that are really there, not with the count that is claimed.
fn decode_list<T>(
    reader: &mut Reader<'_>,
    decode: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = reader.u32()?;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(decode(reader)?);
    }
    Ok(list)
}

fn decode_part(reader: &mut Reader<'_>) -> Result<Vec<u8>, Malformed> {
    Ok(reader.block(MEMBER_BODY_BYTES_MAX)?.to_vec())
}

/// A card as a part of a step.
pub(crate) fn card_bytes(card: &Card) -> Vec<u8> {
    let mut writer = Writer::default();
    encode_card(&mut writer, card);
    writer.into_bytes()
}

/// Understands what [`card_bytes`] made.
pub(crate) fn card_from_bytes(bytes: &[u8]) -> Result<Card, Malformed> {
    let mut reader = Reader::new(bytes);
    let card = decode_card(&mut reader)?;
    reader.end()?;
    Ok(card)
}

fn encode_card(writer: &mut Writer, card: &Card) {
    writer.u32(card.rank).u32(card.ranks).u32(card.library_version);
    for text in [&card.boot_id, &card.host_name, &card.host_setting, &card.processors] {
        writer.block(cut_at(text, TEXT_BYTES_MAX));
    }
    writer.u32(card.process).u64(card.process_namespace).u64(card.network_namespace);
    writer.u32(card.user).u32(card.cores);
    writer.u8(match card.device {
        DeviceKind::Host => 0,
        DeviceKind::Cuda => 1,
    });
    writer.raw(&card.token).block(&encode_addresses(&card.listeners)).block(&card.payload);
}

fn decode_card(reader: &mut Reader<'_>) -> Result<Card, Malformed> {
    let (rank, ranks, library_version) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (boot_id, host_name) = (reader.text(TEXT_BYTES_MAX)?, reader.text(TEXT_BYTES_MAX)?);
    let (host_setting, processors) = (reader.text(TEXT_BYTES_MAX)?, reader.text(TEXT_BYTES_MAX)?);
    Ok(Card {
        rank,
        ranks,
        library_version,
        boot_id,
        host_name,
        host_setting,
        processors,
        process: reader.u32()?,
        process_namespace: reader.u64()?,
        network_namespace: reader.u64()?,
        user: reader.u32()?,
        cores: reader.u32()?,
        device: match reader.u8()? {
            0 => DeviceKind::Host,
            1 => DeviceKind::Cuda,
            _ => return Err(Malformed("its device is unknown")),
        },
        token: reader.array()?,
        listeners: decode_addresses(reader.block(ADDRESSES_BYTES_MAX)?)?,
        payload: reader.block(PAYLOAD_BYTES_MAX)?.to_vec(),
    })
}

fn encode_addresses(addresses: &[SocketAddr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in addresses {
        let mut writer = Writer::default();
        writer.u16(address.port()).raw(&encode_address(address));
        let one = writer.into_bytes();
        if bytes.len() + one.len() <= ADDRESSES_BYTES_MAX {
            bytes.extend(one);
        }
    }
    bytes
}

fn decode_addresses(bytes: &[u8]) -> Result<Vec<SocketAddr>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut addresses = Vec::new();
    while reader.end().is_err() {
        let port = reader.u16()?;
        addresses.push(decode_address(&mut reader, port)?);
    }
    Ok(addresses)
}

fn count_of<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).expect("ranks are counted in 32 bits")
}

fn cut(text: &str) -> &[u8] {
    cut_at(text, REASON_BYTES_MAX)
}

fn cut_at(text: &str, bytes_max: usize) -> &[u8] {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text.as_bytes()[..end]
}

/// Ranks as people write them: `3, 5-7`. Long lists say how many they leave out.
pub(crate) fn list_ranks(ranks: impl IntoIterator<Item = u32>) -> String {
    const RANGES_MAX: usize = 16;
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for rank in ranks {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(rank) => *last = rank,
            _ => ranges.push((rank, rank)),
        }
    }
    let shown: Vec<String> = ranges
        .iter()
        .take(RANGES_MAX)
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    let left_out: u64 = ranges.iter().skip(RANGES_MAX).map(|(first, last)| u64::from(last - first) + 1).sum();
    match left_out {
        0 => shown.join(", "),
        _ => format!("{} and {left_out} more", shown.join(", ")),
    }
}

/// `rank 3 of 8` or `ranks 3, 5-7 of 8`.
pub(crate) fn name_ranks(missing: &[u32], ranks: u32) -> String {
    let word = if missing.len() == 1 { "rank" } else { "ranks" };
    format!("{word} {} of {ranks}", list_ranks(missing.iter().copied()))
}

/// What ranks are called in what people read: by their own numbers, or where ranks of a parent meet again by
/// the numbers that they have there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    /// The members by their new numbers, and how many ranks the parent has.
    pub(crate) parent: Option<(Arc<[u32]>, u32)>,
}

impl Naming {
    /// `ranks`, of `count` that there are.
    pub(crate) fn name(&self, ranks: &[u32], count: u32) -> String {
        let Some((members, parent_count)) = &self.parent else { return name_ranks(ranks, count) };
        let old: Vec<u32> = ranks.iter().filter_map(|rank| members.get(*rank as usize)).copied().collect();
        format!("{} of the parent communicator", name_ranks(&old, *parent_count))
    }

    /// What to look at if ranks do not come.
    pub(crate) fn advice(&self) -> &'static str {
        if self.parent.is_some() {
            "look whether they still run, and make the same calls in the same order as the others"
        } else {
            "look whether they were started, got the same unique id, and can reach the host of its maker"
        }
    }
}

/// A span as people write it: `120 s`, `0.3 s`.
pub(crate) fn seconds(span: std::time::Duration) -> String {
    if span.subsec_millis() == 0 {
        format!("{} s", span.as_secs())
    } else {
        format!("{} s", (span.as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

#[cfg(test)]
pub(in crate::comm::bootstrap) mod tests {
    use super::*;
    use crate::comm::bootstrap::tests::{Random, campaign, sample_card};
    use std::time::Duration;

    fn hello() -> Message {
        Message::Hello { speaker: Speaker::own(), communicator: [2; 16], early: true, nonce: [3; 32] }
    }

    pub(in crate::comm::bootstrap) fn samples() -> Vec<Message> {
        let failure = |kind| Message::Failed(Failure::new(kind, "reason"));
        vec![
            hello(),
            Message::Hello {
                speaker: Speaker { protocol: 77, library: 70_000 },
                communicator: [2; 16],
                early: false,
                nonce: [4; 32],
            },
            Message::Challenge { nonce: [4; 32], proof: [5; 32] },
            Message::Proof { proof: [6; 32] },
            Message::Card { bound_ms: 7, groups: 2, group: 1, card: sample_card(1, 3) },
            Message::Introduction {
                birth: [9; 32],
                cards: (0..3).map(|rank| sample_card(rank, 3)).collect(),
            },
            Message::Contribute { step: 8, parts: vec![b"bytes".to_vec()] },
            Message::Attach { rank: 6 },
            Message::Waiting { step: 3, ranks: vec![5, 9] },
            Message::Later { text: "come again".into() },
            Message::Gathered { step: 9, parts: vec![b"a".to_vec(), Vec::new(), b"ccc".to_vec()] },
            Message::Fail { text: "no memory".into() },
            failure(FailureKind::Remote),
            failure(FailureKind::Mismatch),
            failure(FailureKind::Timeout),
            Message::Progress { text: "waiting".into() },
            Message::Refused { gone: true, text: "go away".into() },
            Message::Leave,
        ]
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for message in samples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes[4..]), Ok(message));
        }
    }

    #[test]
    fn bounds_hold_for_the_largest() {
        let mut card = sample_card(0, 1);
        card.payload = vec![0; PAYLOAD_BYTES_MAX];
        for text in [&mut card.boot_id, &mut card.host_name, &mut card.host_setting, &mut card.processors] {
            *text = "x".repeat(1000);
        }
        let bytes = Message::Card { bound_ms: 0, groups: 1, group: 0, card: card.clone() }.encode();
        assert!(bytes.len() - 4 <= MEMBER_BODY_BYTES_MAX);
        assert!(Message::decode(&bytes[4..]).is_ok());
        let parts = vec![card_bytes(&card), card_bytes(&card)];
        let table = Message::Gathered { step: 0, parts }.encode();
        assert!(table.len() - 4 <= list_bytes_max(2) && Message::decode(&table[4..]).is_ok());
        assert_eq!(card_from_bytes(&card_bytes(&sample_card(1, 2))), Ok(sample_card(1, 2)));
        let reason = Message::Failed(Failure::new(FailureKind::Remote, "é".repeat(5000))).encode();
        assert!(Message::decode(&reason[4..]).is_ok() && reason.len() - 4 <= list_bytes_max(0));
        let hello = hello().encode();
        assert!(hello.len() - 4 <= STRANGER_BODY_BYTES_MAX);
    }

    #[test]
    fn garbage_is_refused_without_a_panic() {
        let mut random = Random(11);
        let samples: Vec<_> = samples().iter().map(Message::encode).collect();
        for _ in 0..campaign(20_000, 1_000_000) {
            let mut body = samples[random.below(samples.len())][4..].to_vec();
            match random.below(3) {
                0 => body.truncate(random.below(body.len() + 1)),
                1 => {
                    for _ in 0..1 + random.below(4) {
                        let at = random.below(body.len());
                        body[at] = random.below(256) as u8;
                    }
                }
                _ => {
                    body = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
                    if let Some(kind) = body.first_mut() {
                        *kind %= 17;
                    }
                }
            }
            let _ = Message::decode(&body);
        }
    }

    #[test]
    fn lists_of_ranks_are_short() {
        assert_eq!(list_ranks([3, 5, 6, 7]), "3, 5-7");
        assert_eq!(name_ranks(&[2], 4), "rank 2 of 4");
        assert_eq!(name_ranks(&[3, 5, 6, 7], 8), "ranks 3, 5-7 of 8");
        assert!(list_ranks((0..1000).map(|rank| rank * 2)).ends_with(" and 984 more"));
        assert_eq!(seconds(Duration::from_secs(120)), "120 s");
        assert_eq!(seconds(Duration::from_millis(300)), "0.3 s");
    }
}
