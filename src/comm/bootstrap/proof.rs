//! Who knows the secret: proofs over both sides' nonces, and keys derived from it. The secret itself never
//! travels between ranks; it is carried by the unique id, which the application hands around.
#![forbid(unsafe_code)]

use std::fmt;

use super::id::Invitation;

/// A number used once, from the system's random source.
pub(crate) type Nonce = [u8; 32];

/// What only those know who were given the unique id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Whose proof it is. A proof of one side is of no use to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Root,
    Member,
}

/// What both sides of one connection have seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    pub(crate) communicator: [u8; 16],
    pub(crate) member_nonce: Nonce,
    pub(crate) root_nonce: Nonce,
}

impl Handshake {
    /// What `side` sends to show that it knows the secret.
    pub(crate) fn proof(&self, secret: &Secret, side: Side) -> [u8; 32] {
        *self.hash(secret, side).as_bytes()
    }

    /// Whether `proof` is what `side` would have sent; takes the same time whatever it is.
    pub(crate) fn accepts(&self, secret: &Secret, side: Side, proof: &[u8; 32]) -> bool {
        self.hash(secret, side) == *proof
    }

    fn hash(&self, secret: &Secret, side: Side) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&secret.0);
        hasher.update(match side {
            Side::Root => b"shoal bootstrap proof of the root..",
            Side::Member => b"shoal bootstrap proof of the member",
        });
        hasher.update(&self.communicator).update(&self.member_nonce).update(&self.root_nonce);
        hasher.finalize()
    }
}

/// The secret that a shared text stands for.
pub(crate) fn secret_from_text(text: &str) -> Secret {
    Secret(blake3::derive_key("shoal bootstrap 1: the secret of a shared text", text.as_bytes()))
}

/// The communicator's number where an address stands in for a unique id.
pub(crate) fn communicator_from_address(address: &str) -> [u8; 16] {
    let key = blake3::derive_key("shoal bootstrap 1: the communicator at an address", address.as_bytes());
    key[..16].try_into().expect("16 of 32 bytes")
}

/// The secret of one birth among those that share a secret.
pub(crate) fn birth_secret(secret: &Secret, birth: &Nonce) -> Secret {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(b"shoal bootstrap secret of a birth").update(birth);
    Secret(*hasher.finalize().as_bytes())
}

/// What a listener knows a rank by that takes part in the birth with this secret.
pub(crate) fn door(secret: &Secret, rank: u32) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(b"shoal bootstrap door of a rank").update(&rank.to_le_bytes());
    hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// The secret and the number of a birth by these ids. One id stands for itself.
pub(crate) fn of_all(invitations: &[Invitation]) -> (Secret, [u8; 16]) {
    if let [only] = invitations {
        return (only.secret, only.communicator);
    }
    let mut hasher = blake3::Hasher::new_derive_key("shoal bootstrap 1: the secret of several ids");
    for invitation in invitations {
        hasher.update(&invitation.secret.0).update(&invitation.communicator);
    }
    let secret = Secret(*hasher.finalize().as_bytes());
    (secret, derived_communicator(&secret.0, &[], b"several ids"))
}

/// The door at which ranks of a communicator ask whether a process still takes part.
pub(crate) fn pulse_door(key: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"shoal bootstrap door of pulses");
    hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// The number by which messages between hosts name the communicator.
pub(crate) fn network_key(key: &[u8; 32]) -> u128 {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"shoal bootstrap key of messages between hosts");
    u128::from_le_bytes(hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes"))
}

/// The number of a child's birth, by which its ranks find one another.
pub(crate) fn derived_communicator(key: &[u8; 32], members: &[u32], purpose: &[u8]) -> [u8; 16] {
    derived(key, b"number of a child", members, purpose)[..16].try_into().expect("16 of 32 bytes")
}

/// The secret that the ranks of a child prove to one another; only who knows the parent's key has it.
pub(crate) fn derived_secret(key: &[u8; 32], members: &[u32], purpose: &[u8]) -> Secret {
    Secret(derived(key, b"secret of a child", members, purpose))
}

fn derived(key: &[u8; 32], what: &[u8; 17], members: &[u32], purpose: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"shoal bootstrap ").update(what).update(&(members.len() as u64).to_le_bytes());
    for member in members {
        hasher.update(&member.to_le_bytes());
    }
    *hasher.update(purpose).finalize().as_bytes()
}

/// The key that the ranks of one communicator share and nobody else can know; later keys derive from it.
pub(crate) fn session_key<'a>(
    secret: &Secret,
    communicator: &[u8; 16],
    tokens: impl Iterator<Item = &'a [u8; 16]>,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(b"shoal bootstrap session key").update(communicator);
    for token in tokens {
        hasher.update(token);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_side_secret_and_nonces_only() {
        let handshake = Handshake { communicator: [1; 16], member_nonce: [2; 32], root_nonce: [3; 32] };
        let secret = Secret([4; 32]);
        let proof = handshake.proof(&secret, Side::Member);
        assert!(handshake.accepts(&secret, Side::Member, &proof));
        assert!(!handshake.accepts(&secret, Side::Root, &proof));
        assert!(!handshake.accepts(&Secret([5; 32]), Side::Member, &proof));
        for other in [
            Handshake { communicator: [9; 16], ..handshake },
            Handshake { member_nonce: [9; 32], ..handshake },
            Handshake { root_nonce: [9; 32], ..handshake },
        ] {
            assert!(!other.accepts(&secret, Side::Member, &proof));
        }
    }

    #[test]
    fn children_differ_by_parent_members_and_purpose() {
        let all = [
            derived_secret(&[1; 32], &[1, 2], b"a"),
            derived_secret(&[2; 32], &[1, 2], b"a"),
            derived_secret(&[1; 32], &[1, 3], b"a"),
            derived_secret(&[1; 32], &[1], &[2, 0, 0, 0, b'a']),
            derived_secret(&[1; 32], &[1, 2], b"b"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other != one));
        }
        assert_ne!(derived_communicator(&[1; 32], &[1, 2], b"a"), all[0].0[..16]);
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", Secret([77; 32])), "Secret(..)");
        assert_ne!(secret_from_text("a").0, secret_from_text("b").0);
    }

    #[test]
    fn session_keys_depend_on_who_takes_part() {
        let key = |tokens: &[[u8; 16]]| session_key(&Secret([1; 32]), &[2; 16], tokens.iter());
        assert_eq!(key(&[[1; 16], [2; 16]]), key(&[[1; 16], [2; 16]]));
        assert_ne!(key(&[[1; 16], [2; 16]]), key(&[[2; 16], [1; 16]]));
    }
}
