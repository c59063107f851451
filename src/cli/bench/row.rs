//! One result.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was measured of one operation at one size, out of place or in place. Units are in the names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The contender's own name and version.
    pub(crate) library: String,
    /// The operation.
    pub(crate) op: String,
    /// The element type.
    #[serde(rename = "type")]
    pub(crate) data_type: String,
    /// The reduction, `none` where nothing is combined.
    pub(crate) redop: String,
    /// The root, -1 where there is none.
    pub(crate) root: i64,
    pub(crate) ranks: usize,
    /// The size as nccl-tests counts it: the whole buffer over all ranks for what is divided.
    pub(crate) bytes: usize,
    /// Elements as the call names them.
    pub(crate) count: usize,
    /// Messages to each peer, of an exchange; else 1.
    pub(crate) messages: usize,
    pub(crate) in_place: bool,
    /// The median over batches of the slowest rank's mean.
    pub(crate) time_us: f64,
    /// 99 of 100 single calls were faster, on the slowest rank.
    pub(crate) time_us_p99: f64,
    pub(crate) algbw_gbps: f64,
    pub(crate) busbw_gbps: f64,
    /// Wrong elements over all ranks; absent when not checked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) wrong: Option<u64>,
    /// Calls of each batch.
    pub(crate) iterations: usize,
    /// A cache line to the other rank's core and back, before and after; absent unless two pinned ranks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) line_ns: Option<[f64; 2]>,
    /// What the machine allows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) floor_us: Option<f64>,
    /// Of a stage boundary: what it takes beyond data and mask alone, the median over pairs of batches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) added_us: Option<f64>,
    /// How far data and mask alone lie from themselves, measured as `added_us` is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) added_band_us: Option<f64>,
    /// Of `--against`: the setting, its time, and how far this row's case lies from itself, as a share.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) against: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) against_us: Option<f64>,
    /// The median over turns of the other's time over this one's: above 1 this row's is faster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) against_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) aa_band: Option<f64>,
    /// What rank 0's library counted for one call, by its own names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) counters: BTreeMap<String, f64>,
    /// Which way of moving bytes that floor is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) floor_by: Option<String>,
}

impl Row {
    /// How many times the floor it took.
    pub(crate) fn floor_ratio(&self) -> Option<f64> {
        self.floor_us.filter(|floor| *floor > 0.0).map(|floor| self.time_us / floor)
    }
}
