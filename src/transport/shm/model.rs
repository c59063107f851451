//! Every interleaving of a small ring, under the memory model: `make loom`.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};

use super::help::{self, Help, Side};
use super::ring::{
    Consumer, Credit, Kind, LINE_BYTES, OBSERVE, PUBLISH, Producer, RingMemory, SLOT_WORDS, Shape,
};

/// What is no atomic is a cell whose races loom reports: a missing ordering fails the model.
struct Model {
    headers: Vec<AtomicU64>,
    words: Vec<UnsafeCell<u64>>,
    credit: Vec<AtomicU64>,
    help: Vec<AtomicU64>,
    data: Vec<UnsafeCell<u64>>,
}

// SAFETY: the cells are loom's, which checks each access; that is what the model is for.
unsafe impl Sync for Model {}
// SAFETY: as above.
unsafe impl Send for Model {}

const SHAPE: Shape = Shape { slots: 2, data_bytes: 512 };

impl Model {
    fn new() -> Model {
        Model {
            headers: (0..2).map(|_| AtomicU64::new(0)).collect(),
            words: (0..2 * SLOT_WORDS).map(|_| UnsafeCell::new(0)).collect(),
            credit: (0..4).map(|_| AtomicU64::new(0)).collect(),
            help: (0..4).map(|_| AtomicU64::new(0)).collect(),
            data: (0..8).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    fn data(&self, position: u64) -> &UnsafeCell<u64> {
        &self.data[SHAPE.offset(position) / LINE_BYTES]
    }
}

fn read(cell: &UnsafeCell<u64>) -> u64 {
    // SAFETY: loom fails the model if anybody writes meanwhile.
    cell.with(|value| unsafe { *value })
}

fn write(cell: &UnsafeCell<u64>, new: u64) {
    // SAFETY: loom fails the model if anybody reads or writes meanwhile.
    cell.with_mut(|value| unsafe { *value = new });
}

impl RingMemory for Model {
    fn header(&self, slot: usize) -> u64 {
        self.headers[slot].load(OBSERVE)
    }
    fn set_header(&self, slot: usize, value: u64) {
        self.headers[slot].store(value, PUBLISH);
    }
    fn word(&self, slot: usize, index: usize) -> u64 {
        read(&self.words[slot * SLOT_WORDS + index])
    }
    fn set_word(&self, slot: usize, index: usize, value: u64) {
        write(&self.words[slot * SLOT_WORDS + index], value);
    }
    fn expect(&self, _slot: usize) {}
    fn credit(&self, which: Credit) -> u64 {
        self.credit[which as usize].load(OBSERVE)
    }
    fn set_credit(&self, which: Credit, value: u64) {
        self.credit[which as usize].store(value, PUBLISH);
    }
    fn help(&self, which: Help) -> u64 {
        self.help[which as usize].load(OBSERVE)
    }
    fn set_help(&self, which: Help, value: u64) {
        self.help[which as usize].store(value, PUBLISH);
    }
    fn exchange_claims(&self, before: u64, after: u64) -> Result<(), u64> {
        let claims = &self.help[Help::Claims as usize];
        claims.compare_exchange(before, after, Ordering::AcqRel, OBSERVE).map(|_| ())
    }
}

/// Sends `count` packets, every second one through the data, whose line repeats the number.
fn produce(memory: &Model, count: u64) {
    let mut producer = Producer::new(SHAPE);
    for number in 1..=count {
        let bytes = if number % 2 == 0 { LINE_BYTES } else { 0 };
        let start = loop {
            match producer.find_room(memory, bytes).expect("honest credit") {
                Some(start) => break start,
                None => loom::thread::yield_now(),
            }
        };
        memory.set_word(producer.slot(), 1, number);
        if bytes > 0 {
            memory.set_word(producer.slot(), 3, bytes as u64);
            write(memory.data(start), number);
        }
        let kind = if bytes > 0 { Kind::Eager } else { Kind::Inline };
        producer.publish(memory, kind, 0, bytes);
    }
}

fn consume(memory: &Model, count: u64) {
    let mut consumer = Consumer::new(SHAPE);
    for number in 1..=count {
        let kind = loop {
            match consumer.look(memory).expect("a sound slot") {
                Some((kind, _)) => break kind,
                None => loom::thread::yield_now(),
            }
        };
        assert_eq!(memory.word(consumer.slot(), 1), number);
        let mut bytes = 0;
        if kind == Kind::Eager {
            let (start, length) = consumer.data(memory.word(consumer.slot(), 3)).expect("fits");
            assert_eq!(read(memory.data(start)), number);
            bytes = length;
        }
        consumer.release(memory, bytes);
    }
}

#[test]
fn packets_arrive_whole_and_in_order() {
    loom::model(|| {
        let memory = Arc::new(Model::new());
        let theirs = Arc::clone(&memory);
        let sender = loom::thread::spawn(move || produce(&theirs, 4));
        consume(&memory, 4);
        sender.join().expect("held");
    });
}

/// The source of an offered packet is not touched after the verdict.
#[test]
fn a_verdict_gives_the_source_back() {
    loom::model(|| {
        let memory = Arc::new(Model::new());
        let source = Arc::new(UnsafeCell::new(1_u64));
        let (theirs, their_source) = (Arc::clone(&memory), Arc::clone(&source));
        let sender = loom::thread::spawn(move || {
            let mut producer = Producer::new(SHAPE);
            write(&their_source, 7);
            producer.publish(&*theirs, Kind::Offer, 0, 0);
            while theirs.credit(Credit::Bulk) != 1 {
                loom::thread::yield_now();
            }
            write(&their_source, 8);
        });
        let consumer = Consumer::new(SHAPE);
        while consumer.look(&*memory).expect("a sound slot").is_none() {
            loom::thread::yield_now();
        }
        assert_eq!(read(&source), 7);
        memory.set_credit(Credit::Bulk, 1);
        sender.join().expect("held");
    });
}

/// Every chunk of a packet that both sides copy is written by one of them, and seen by the receiver.
#[test]
fn chunks_have_one_owner_each() {
    const COUNT: u32 = 3;
    loom::model(|| {
        let memory = Arc::new(Model::new());
        let target: Arc<Vec<UnsafeCell<u64>>> = Arc::new((0..COUNT).map(|_| UnsafeCell::new(0)).collect());
        let (theirs, their_target) = (Arc::clone(&memory), Arc::clone(&target));
        help::open(&*memory, 1, 64, 8);
        let sender = loom::thread::spawn(move || {
            for _ in 0..2 {
                let Ok(Some(index)) = help::claim(&*theirs, 1, COUNT, Side::Back) else { return };
                write(&their_target[index as usize], 10 + u64::from(index));
                let done = help::Done { count: COUNT - index, has_failed: false };
                theirs.set_help(Help::Done, done.word());
            }
        });
        let mut front = 0;
        while let Some(index) = help::claim(&*memory, 1, COUNT, Side::Front).expect("honest claims") {
            assert_eq!(index, front);
            write(&target[index as usize], 10 + u64::from(index));
            front += 1;
        }
        while help::Done::read(memory.help(Help::Done)).count < COUNT - front {
            loom::thread::yield_now();
        }
        assert_eq!(help::close(&*memory, 1), COUNT - front);
        assert!((0..COUNT).all(|index| read(&target[index as usize]) == 10 + u64::from(index)));
        sender.join().expect("held");
    });
}

/// Who closes the claims and then sees all that was claimed done is the only one left.
#[test]
fn nobody_writes_after_the_end_of_help() {
    loom::model(|| {
        let memory = Arc::new(Model::new());
        let target = Arc::new(UnsafeCell::new(0_u64));
        let (theirs, their_target) = (Arc::clone(&memory), Arc::clone(&target));
        help::open(&*memory, 1, 64, 8);
        let sender = loom::thread::spawn(move || {
            if let Ok(Some(_)) = help::claim(&*theirs, 1, 1, Side::Back) {
                write(&their_target, 1);
                theirs.set_help(Help::Done, help::Done { count: 1, has_failed: false }.word());
            }
        });
        let back = help::close(&*memory, 1);
        while help::Done::read(memory.help(Help::Done)).count < back {
            loom::thread::yield_now();
        }
        write(&target, 2);
        sender.join().expect("held");
    });
}

/// Who goes to sleep and who publishes cannot both miss the other, given the barrier that the sleeper makes
/// every processor execute (modelled as the fence that it amounts to on either side).
#[test]
fn no_wake_is_lost() {
    use loom::sync::atomic::{AtomicU32, fence};
    loom::model(|| {
        let state = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)));
        let theirs = Arc::clone(&state);
        let sender = loom::thread::spawn(move || {
            let (packet, sleeping, doorbell) = &*theirs;
            packet.store(1, Ordering::Release);
            fence(Ordering::SeqCst);
            if sleeping.load(Ordering::Relaxed) != 0 && sleeping.swap(0, Ordering::AcqRel) != 0 {
                doorbell.fetch_add(1, Ordering::Release);
            }
        });
        let (packet, sleeping, doorbell) = &*state;
        let ticket = doorbell.load(Ordering::Acquire);
        sleeping.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let sleeps = packet.load(Ordering::Acquire) == 0;
        sender.join().expect("held");
        assert!(!sleeps || doorbell.load(Ordering::Acquire) != ticket);
    });
}
