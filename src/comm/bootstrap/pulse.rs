//! Whether the processes of other ranks live, asked of the system alone.
//!
//! Who waits long for a rank on another host connects to that rank's process, at the listener at which ranks meet,
//! and keeps the connection as long as it wonders. Nothing is ever said on it after the first words. The peer's
//! *system* answers for its process: a process that is stopped keeps the connection, one that ended closes it (even
//! while a forked child of it lives, see [`crate::system::fork::Unshared`]), and a host that cannot be reached answers
//! no probe of the system.
//!
//! ```text
//! asked -> Trying all addresses -> Heard, by the first that answers
//!              |  ^                  |
//!              |  '--- it closed ----'
//!              '-> Gone: every address refused, or none answered in time
//! ```
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::id::Speaker;
use super::interfaces::Links;
use super::message::Message;
use super::porch::{Mailbox, Porch};
use super::proof::pulse_door;
use crate::error::{Error, Result};
use crate::system::fork::Unshared;
use crate::system::socket::{self, WRITABLE};
use crate::topology::Card;

/// How long an answer may take. With the look that comes first and the one that sees it, 2 s.
const ANSWER_WAIT: Duration = Duration::from_millis(1500);
/// How often in a row a process may close what it accepted before it counts as one that takes no part.
const CLOSED_MAX: u32 = 30;

/// A connection that asks.
#[derive(Debug)]
struct Asking {
    stream: Unshared<TcpStream>,
    address: SocketAddr,
}

#[derive(Debug)]
enum State {
    Unasked,
    Trying { since: Instant, attempts: Vec<Asking>, obstacles: Vec<String> },
    Heard(Asking),
    Gone(String),
}

#[derive(Debug)]
struct Beat {
    addresses: Vec<SocketAddr>,
    state: State,
    closed_count: u32,
}

/// The processes of a communicator's ranks.
#[derive(Debug)]
pub struct Pulse {
    door: [u8; 16],
    beats: Vec<Beat>,
    porch: Option<Arc<Porch>>,
    /// Keeps those that ask after this process.
    _guests: (Arc<Mailbox>, UnixStream),
}

impl Pulse {
    pub(super) fn new(
        key: &[u8; 32],
        rank: u32,
        cards: &[Card],
        porch: Option<Arc<Porch>>,
        links: &Links,
    ) -> Result<Pulse> {
        let guests = Mailbox::new().map_err(|cause| {
            Error::refused(
                "preparing to ask after other ranks",
                &cause,
                "socketpair",
                "raise the limit of open files (ulimit -n)",
            )
        })?;
        let own = &cards[rank as usize];
        let beats = cards.iter().map(|card| Beat {
            addresses: super::interfaces::tried(&addresses_of(own, card), links),
            state: State::Unasked,
            closed_count: 0,
        });
        let (door, beats) = (pulse_door(key), beats.collect());
        if let Some(porch) = &porch {
            porch.expect(door, Some(Arc::clone(&guests.0)));
        }
        Ok(Pulse { door, beats, porch, _guests: guests })
    }

    /// How it was seen that the process of `rank` is gone or out of reach; `None` while it lives, or is being asked.
    /// It does not wait.
    pub fn ask(&mut self, rank: u32) -> Option<String> {
        let hello =
            Message::Hello { speaker: Speaker::own(), communicator: self.door, early: false, nonce: [0; 32] }
                .encode();
        let beat = &mut self.beats[rank as usize];
        loop {
            let next = match std::mem::replace(&mut beat.state, State::Unasked) {
                State::Unasked => Some(begin(&beat.addresses)),
                State::Trying { since, attempts, obstacles } => advance(since, attempts, obstacles, &hello),
                State::Heard(asking) => match listen(&asking) {
                    Ok(()) => {
                        beat.state = State::Heard(asking);
                        return None;
                    }
                    Err(error) if is_silence(error.kind()) => {
                        let address = asking.address;
                        Some(State::Gone(format!("its host does not answer at {address} any more: {error}")))
                    }
                    // It closed the connection: it ended, or does not take part any more.
                    Err(_) if beat.closed_count < CLOSED_MAX => {
                        beat.closed_count += 1;
                        Some(begin(&beat.addresses))
                    }
                    Err(_) => Some(State::Gone("its process does not take part any more".into())),
                },
                State::Gone(how) => {
                    beat.state = State::Gone(how.clone());
                    return Some(how);
                }
            };
            match next {
                Some(State::Heard(asking)) => {
                    beat.state = State::Heard(asking);
                    return None;
                }
                Some(trying @ State::Trying { .. }) => {
                    beat.state = trying;
                    return None;
                }
                Some(state) => beat.state = state,
                None => return None,
            }
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some(porch) = self.porch.as_ref().filter(|porch| porch.is_ours()) {
            porch.expect(self.door, None);
        }
    }
}

/// Where a process is looked for: on this machine at its loopback, elsewhere at all others.
fn addresses_of(own: &Card, card: &Card) -> Vec<SocketAddr> {
    let is_here = !own.boot_id.is_empty()
        && (&own.boot_id, own.network_namespace) == (&card.boot_id, card.network_namespace);
    let some: Vec<SocketAddr> =
        card.listeners.iter().filter(|address| address.ip().is_loopback() == is_here).copied().collect();
    if some.is_empty() { card.listeners.clone() } else { some }
}

fn begin(addresses: &[SocketAddr]) -> State {
    let (mut attempts, mut obstacles) = (Vec::new(), Vec::new());
    for address in addresses {
        match socket::connect(*address) {
            Ok(stream) => attempts.push(Asking { stream: Unshared::new(stream), address: *address }),
            Err(error) => obstacles.push(format!("{address}: {error}")),
        }
    }
    State::Trying { since: Instant::now(), attempts, obstacles }
}

/// Looks who has answered.
fn advance(since: Instant, attempts: Vec<Asking>, mut obstacles: Vec<String>, hello: &[u8]) -> Option<State> {
    let mut waiting = Vec::new();
    for asking in attempts {
        match greet(&asking, hello) {
            Ok(true) => return Some(State::Heard(asking)),
            Ok(false) => waiting.push(asking),
            Err(error) => obstacles.push(format!("{}: {error}", asking.address)),
        }
    }
    if waiting.is_empty() {
        return Some(State::Gone(format!("its process cannot be reached: {}", obstacles.join(", "))));
    }
    if since.elapsed() < ANSWER_WAIT {
        return Some(State::Trying { since, attempts: waiting, obstacles });
    }
    let silent: Vec<String> = waiting.iter().map(|asking| format!("{}: no answer", asking.address)).collect();
    let all = [obstacles, silent].concat().join(", ");
    Some(State::Gone(format!("its host cannot be reached: {all}")))
}

/// Says for whom it comes, once it is connected; whether it is.
fn greet(asking: &Asking, hello: &[u8]) -> std::io::Result<bool> {
    let mut interests = [socket::interest(&*asking.stream, WRITABLE)];
    socket::wait(&mut interests, Some(Duration::ZERO))?;
    if interests[0].revents == 0 {
        return Ok(false);
    }
    if let Some(error) = asking.stream.take_error()? {
        return Err(error);
    }
    socket::keep_alive(&asking.stream)?;
    // A new connection has room for these few bytes.
    (&*asking.stream).write_all(hello)?;
    Ok(true)
}

/// Whether the connection stands.
fn listen(asking: &Asking) -> std::io::Result<()> {
    let mut scratch = [0; 512];
    loop {
        match (&*asking.stream).read(&mut scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            // A refusal in words; the end follows.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // The system asks every second. It would give up by itself as well, but later.
    let silence = socket::last_answer(&asking.stream)?;
    if silence > ANSWER_WAIT {
        return Err(std::io::Error::new(
            ErrorKind::TimedOut,
            format!("silent for {} ms", silence.as_millis()),
        ));
    }
    Ok(())
}

/// Whether it is the host that does not answer, and not its process.
fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pulse(addresses: Vec<SocketAddr>) -> Pulse {
        let cards = [Card::default(), Card { rank: 1, listeners: addresses, ..Card::default() }];
        Pulse::new(&[1; 32], 0, &cards, None, &Links::default()).expect("sockets")
    }

    fn until(pulse: &mut Pulse, is_done: impl Fn(Option<String>) -> bool) {
        let began = Instant::now();
        while !is_done(pulse.ask(1)) {
            assert!(began.elapsed() < Duration::from_secs(30), "never seen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn who_listens_lives_however_long_it_says_nothing_and_is_gone_when_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut pulse = pulse(vec![listener.local_addr().expect("bound")]);
        // Nobody accepts, as in a process that is stopped.
        for _ in 0..50 {
            assert_eq!(pulse.ask(1), None);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(matches!(pulse.beats[1].state, State::Heard(_)));
        let (accepted, _) = listener.accept().expect("somebody asks");
        drop((listener, accepted));
        until(&mut pulse, |gone| gone.is_some_and(|how| how.contains("cannot be reached")));
    }

    #[test]
    fn who_closes_every_connection_takes_no_part() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        until(&mut pulse(vec![address]), |gone| gone.is_some_and(|how| how.contains("does not take part")));
    }

    #[test]
    fn loopback_is_for_this_machine_only() {
        let [near, far] = ["127.0.0.1:7", "10.0.0.1:7"].map(|text| text.parse().expect("an address"));
        let card = |boot: &str| Card { boot_id: boot.into(), listeners: vec![near, far], ..Card::default() };
        assert_eq!(addresses_of(&card("a"), &card("a")), [near]);
        assert_eq!(addresses_of(&card("a"), &card("b")), [far]);
    }
}
