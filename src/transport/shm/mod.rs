//! stub
#[allow(missing_docs)]
#[derive(Debug)]
pub struct ShmTransport;
use super::*;
impl Transport for ShmTransport {
 fn eager_bytes(&self, _: u32) -> usize {0}
 fn reserve(&mut self, _: u32, _: usize) -> Option<*mut u8> {None}
 fn publish(&mut self, _: u32, _: Head) {}
 unsafe fn begin_bulk(&mut self, _: u32, _: Head, _: Address, _: usize) -> bool {false}
 fn poll_bulk(&mut self, _: u32) -> Result<Bulk, Error> {Ok(Bulk::Done)}
 fn front(&mut self, _: u32) -> Result<Option<Front>, Error> {Ok(None)}
 fn view(&mut self, _: u32, _: usize) -> Result<&[u8], Error> {Ok(&[])}
 unsafe fn read_into(&mut self, _: u32, _: Address, _: usize) -> Result<usize, Error> {Ok(0)}
 fn consume(&mut self, _: u32, _: usize) {}
 fn finish(&mut self, _: u32) {}
 fn peer(&mut self, _: u32) -> Peer {Peer::Alive}
 fn raise(&mut self, _: &str) {}
 fn raised(&mut self) -> Option<(u32, String)> {None}
 fn leave(&mut self, _: Peer) {}
}
use std::sync::Arc;
use std::time::{Duration, Instant};
/// stub
#[derive(Debug, Clone)] pub struct Doorbell;
#[allow(missing_docs)] impl Doorbell { pub fn ring(&self) {} }
/// stub
pub fn sleep_unless(_: &[&Doorbell], _: Duration, _: impl FnOnce() -> bool) {}
/// stub
#[derive(Debug)] pub struct Segment;
/// stub
#[derive(Debug)] pub struct Host;
/// stub
#[derive(Debug)] pub struct Invitation;
#[allow(missing_docs)] impl Invitation { pub const BYTES: usize = 56; pub fn from_bytes(_: &[u8; 56]) -> Invitation {Invitation} pub fn to_bytes(&self) -> [u8; 56] {[0; 56]} }
#[allow(missing_docs)] impl Segment { pub fn create(_: u32, _: usize) -> Result<Arc<Segment>, Error> {Ok(Arc::new(Segment))} pub fn join(_: &Invitation, _: Instant) -> Result<Arc<Segment>, Error> {Ok(Arc::new(Segment))} }
#[allow(missing_docs)] impl Host { pub fn open(_: &Arc<Segment>) -> Result<Host, Error> {Ok(Host)} pub fn invitation(&self) -> Invitation {Invitation} }
#[allow(missing_docs)] impl ShmTransport { pub fn new(_: Arc<Segment>, _: u32, _: &crate::config::Config) -> Result<ShmTransport, Error> {Ok(ShmTransport)} pub fn doorbell(&self) -> Doorbell {Doorbell} }
