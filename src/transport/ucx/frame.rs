//! What stands in front of every active message.
//!
//! ```text
//! 0        8        16               32         40         48     56      64      72
//! | mark   | source | communicator   | sequence | returned | head          | total |
//! |   kind | target |                |          |          | what | which  |       |
//! ```
//! Whoever reads it believes nothing: a mark, a kind or a length that does not fit makes it a stranger's.
#![forbid(unsafe_code)]

use crate::transport::Head;

/// "shl" and the version of this layout.
const MARK: u32 = u32::from_le_bytes(*b"shl1");

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The first piece of a packet; its `total` says how long the packet is.
    Packet = 1,
    /// A further piece of the packet before it.
    Piece = 2,
    /// Nothing but `returned`.
    Credit = 3,
    /// The source waits for the target, and wants to hear what becomes of it.
    Watch = 4,
    /// The source failed; the data are its words.
    Raise = 5,
    /// Where the source stands: `head`, and in `total` for whom it waits.
    Stand = 6,
    /// The source leaves, `total` says how; `sequence` pieces came before.
    Leave = 7,
    /// All that came before the target left has arrived here.
    Arrived = 8,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Packet,
        Kind::Piece,
        Kind::Credit,
        Kind::Watch,
        Kind::Raise,
        Kind::Stand,
        Kind::Leave,
        Kind::Arrived,
    ];
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) source: u32,
    pub(super) target: u32,
    /// The communicator's key.
    pub(super) key: u128,
    /// Of pieces: their number in the line. Of words about the line: how many pieces came before.
    pub(super) sequence: u64,
    /// How much of the line from the target to the source was read, ever.
    pub(super) returned: u64,
    pub(super) head: Head,
    pub(super) total: u64,
}

impl Header {
    /// Bytes on the way.
    pub(super) const BYTES: usize = 72;

    pub(super) fn encode(&self) -> [u8; Header::BYTES] {
        let mut bytes = [0; Header::BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MARK.to_le_bytes());
        put(&(self.kind as u32).to_le_bytes());
        put(&self.source.to_le_bytes());
        put(&self.target.to_le_bytes());
        put(&self.key.to_le_bytes());
        for word in [self.sequence, self.returned, self.head.what, self.head.which, self.total] {
            put(&word.to_le_bytes());
        }
        bytes
    }

    /// `None` if nobody of ours wrote it.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; Header::BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u32 == half(4))?;
        (half(0) == MARK).then_some(Header {
            kind,
            source: half(8),
            target: half(12),
            key: u128::from(word(16)) | u128::from(word(24)) << 64,
            sequence: word(32),
            returned: word(40),
            head: Head { what: word(48), which: word(56) },
            total: word(64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: Kind) -> Header {
        Header {
            kind,
            source: 7,
            target: u32::MAX,
            key: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            sequence: 1 << 40,
            returned: 3,
            head: Head { what: u64::MAX, which: 5 },
            total: 1 << 63,
        }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        for kind in Kind::ALL {
            let header = sample(kind);
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
    }

    #[test]
    fn what_is_cut_or_bent_is_refused() {
        let bytes = sample(Kind::Packet).encode();
        for length in 0..Header::BYTES {
            assert_eq!(Header::decode(&bytes[..length]), None);
        }
        assert_eq!(Header::decode(&[bytes.as_slice(), &[0]].concat()), None);
        for at in 0..8 {
            for bit in 0..8 {
                let mut bent = bytes;
                bent[at] ^= 1 << bit;
                // A kind may become another one; all else is refused.
                let kind = Header::decode(&bent).map(|header| header.kind);
                assert!(at == 4 || kind.is_none(), "byte {at}, bit {bit}");
                assert_ne!(kind, Some(Kind::Packet));
            }
        }
    }
}
