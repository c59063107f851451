//! How a rank gets its lines to other hosts: every rank tells every rank where UCX finds it, through the exchange in
//! which they proved who they are.
#![forbid(unsafe_code)]

use super::birth::together;
use super::bootstrap::{self, Session, network_devices};
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::topology::Topology;
use crate::transport::shm::Doorbell;
use crate::transport::ucx::{Devices, Net, Place, Pulse, UcxTransport, Vital};

/// Whether the processes of peers live, as the exchange at birth finds out.
struct Asked(bootstrap::Pulse);

impl Pulse for Asked {
    fn ask(&mut self, peer: u32) -> Vital {
        self.0.ask(peer).map_or(Vital::Alive, Vital::Gone)
    }
}

/// Makes the lines of a communicator that spans hosts. All its ranks call it.
pub(super) fn connect(
    session: &mut Session,
    topology: &Topology,
    config: &Config,
    bell: Doorbell,
) -> Result<UcxTransport> {
    let net = together(session, "starting UCX", |_| {
        let devices = match network_devices(config)? {
            (names, _) if names.is_empty() => Devices::All,
            (names, true) => Devices::Named(names),
            (names, false) => Devices::Chosen(names),
        };
        Net::get(&config.ucx, &config.ucx_log_level, &devices, config::is_told)
    })?;
    let own_bytes = config.network_bytes as u64;
    let told = session.all_gather(&[own_bytes.to_le_bytes().as_slice(), &net.card()].concat())?;
    together(session, "opening its lines to other hosts", |session| {
        let mut cards = Vec::with_capacity(told.len());
        // What is lent must be there, so the least that anybody has counts.
        let mut window_bytes = own_bytes;
        for (rank, told) in (0..).zip(&told) {
            let (bytes, card) = told
                .split_first_chunk::<8>()
                .ok_or_else(|| Error::Internal(format!("rank {rank} did not say where UCX finds it")))?;
            window_bytes = window_bytes.min(u64::from_le_bytes(*bytes));
            cards.push((!topology.is_local(rank)).then(|| card.to_vec()));
        }
        let pulse = Box::new(Asked(session.pulse(config)?));
        let place = Place {
            key: session.network_key(),
            rank: session.rank,
            cards,
            window_bytes: usize::try_from(window_bytes).unwrap_or(usize::MAX),
            bell: Box::new(move || bell.ring()),
            pulse,
        };
        UcxTransport::new(net, place)
    })
}

/// The other hosts, for the log.
pub(super) fn describe(topology: &Topology) -> String {
    match topology.hosts().len() {
        1 => String::new(),
        hosts => format!(
            "; UCX to {} ranks on {} other hosts",
            topology.ranks() as usize - topology.local_ranks().len(),
            hosts - 1
        ),
    }
}
