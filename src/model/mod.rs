//! What a training job should communicate in one step, by formulas.
//!
//! ```
//! use shoal::model::{Layout, Shape, Step, calls};
//! let layout = Layout { tensor: 8, ..Layout::default() };
//! let step = Step::default();
//! let calls = calls(&Shape::named("13B").unwrap(), &layout, &step).unwrap();
//! let sums = calls.iter().find(|call| call.bytes == 20_971_520).unwrap();
//! assert_eq!((sums.operation, sums.calls), ("allreduce", 162));
//! ```
//!
//! L layers, h hidden, V padded vocabulary, s sequence, b micro-batch, m micro-batches, d data, t tensor, p pipeline
//! ranks, e bytes of an element, N parameters, M = N e, n0 = b s h e. Bytes are those of the whole buffer over all
//! ranks of the group for allgather, reducescatter and alltoall, of the vector for allreduce, of a message for send.
//!
//! | of | operation | calls | bytes |
//! |---|---|---|---|
//! | plain data parallelism | allreduce | buckets | M together |
//! | ZeRO-1 and 2 as published | reducescatter, allgather | 1 each | M each |
//! | ZeRO-1 and 2 as DeepSpeed does by default | allreduce, allgather | 1 each | M each |
//! | ZeRO-3 and FSDP | allgather, reducescatter | 2 m and m | M each |
//! | tensor parallelism | allreduce | (4 L + 2) m, or 6 L + 2 where all is computed again | n0 |
//! | and its loss | allreduce | 3 m | 4 b s |
//! | with sequence parallelism | allgather, reducescatter | 6 L m and 4 L m | n0 |
//! | and its small parameters | allreduce | 1 | 4 L h e |
//! | pipeline of p v chunks | send | 2 (p v - 1) m | n0, or n0 / t and an allgather of n0 |
//! | experts | alltoall | 4 a layer, m times | b s k h e a rank |
//!
//! With tensor and pipeline parallelism a data group holds N / (t p) parameters; stages are taken as equal. ZeRO-1
//! reduces once a step, ZeRO-2 every micro-batch.
#![forbid(unsafe_code)]

mod buckets;
mod shape;

pub use buckets::buckets;
pub use shape::{PRESETS, Shape, Style};

/// How optimizer state, gradients and parameters are spread over data parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Zero {
    /// Not at all: every rank has all.
    #[default]
    None,
    /// Optimizer state.
    One,
    /// And gradients.
    Two,
    /// And parameters; FSDP does the same.
    Three,
}

/// How a job is spread over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Ranks that hold the same part and see different data.
    pub data: u32,
    /// Ranks that share every layer.
    pub tensor: u32,
    /// Stages.
    pub pipeline: u32,
    /// Chunks of layers on each stage; more than one: interleaved.
    pub chunks: u32,
    /// Ranks that share the experts of a layer; 1: there are none.
    pub experts: u32,
    /// What data parallel ranks share out.
    pub zero: Zero,
    /// ZeRO-1 and 2 sum gradients on every rank, as DeepSpeed does by default, instead of scattering sums.
    pub sums_everywhere: bool,
    /// Tensor parallel ranks split the sequence where layers are not shared.
    pub sequence_parallel: bool,
    /// Stages send a part for each tensor parallel rank, which gather it.
    pub scatter_gather: bool,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout {
            data: 1,
            tensor: 1,
            pipeline: 1,
            chunks: 1,
            experts: 1,
            zero: Zero::None,
            sums_everywhere: false,
            sequence_parallel: false,
            scatter_gather: false,
        }
    }
}

/// What one step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Samples of a micro-batch.
    pub micro_batch: u64,
    /// Micro-batches of a step, on each data parallel rank.
    pub micro_batches: u64,
    /// Tokens of a sample.
    pub sequence: u64,
    /// Bytes of an element.
    pub element_bytes: u64,
    /// All activations are computed again on the way back.
    pub recomputes: bool,
    /// To how many experts a token goes.
    pub top: u64,
    /// Layers with experts.
    pub expert_layers: u64,
}

impl Default for Step {
    fn default() -> Step {
        Step {
            micro_batch: 1,
            micro_batches: 1,
            sequence: 2048,
            element_bytes: 2,
            recomputes: false,
            top: 2,
            expert_layers: 0,
        }
    }
}

/// Calls that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Which ranks: `data`, `tensor`, `pipeline` or `experts`.
    pub group: &'static str,
    /// The operation.
    pub operation: &'static str,
    /// How many in one step; for `send`, over all stages.
    pub calls: u64,
    /// Of how many bytes each.
    pub bytes: u64,
    /// By how many ranks.
    pub ranks: u32,
    /// What for.
    pub purpose: &'static str,
}

impl Calls {
    /// All bytes of these calls, as they are named.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.calls * self.bytes
    }

    /// What a rank sends for them on a ring; of sends, what all stages send.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        let (ranks, total) = (u128::from(self.ranks), u128::from(self.total_bytes()));
        let wire = match self.operation {
            "allreduce" => 2 * (ranks - 1) * total / ranks,
            "allgather" | "reducescatter" => (ranks - 1) * total / ranks,
            // Named by what each rank sends.
            "alltoall" => (ranks - 1) * total / ranks,
            _ => total,
        };
        wire as u64
    }
}

/// The calls of one step; those of one rank of each group.
///
/// # Errors
/// What does not fit together, and what was expected.
pub fn calls(shape: &Shape, layout: &Layout, step: &Step) -> Result<Vec<Calls>, String> {
    check(shape, layout, step)?;
    let mut all = Vec::new();
    add_data(&mut all, shape, layout, step);
    add_tensor(&mut all, shape, layout, step);
    add_pipeline(&mut all, shape, layout, step);
    add_experts(&mut all, shape, layout, step);
    all.retain(|calls| calls.calls > 0 && calls.bytes > 0);
    Ok(all)
}

fn check(shape: &Shape, layout: &Layout, step: &Step) -> Result<(), String> {
    let counts = [layout.data, layout.tensor, layout.pipeline, layout.chunks, layout.experts];
    if counts.contains(&0) || [step.micro_batch, step.micro_batches, step.sequence].contains(&0) {
        return Err(
            "a number of ranks, chunks, samples, micro-batches or tokens is 0, expected 1 or more".into()
        );
    }
    if layout.chunks > 1 && layout.pipeline == 1 {
        return Err("chunks are for stages: expected a pipeline of 2 or more".into());
    }
    let parts = u64::from(layout.pipeline) * u64::from(layout.chunks);
    if !shape.layers.is_multiple_of(parts) {
        return Err(format!("{} layers do not fall into {parts} equal parts", shape.layers));
    }
    if !shape.hidden.is_multiple_of(u64::from(layout.tensor)) {
        return Err(format!(
            "a hidden size of {} does not fall into {} equal parts",
            shape.hidden, layout.tensor
        ));
    }
    if step.expert_layers > shape.layers {
        return Err(format!("{} layers with experts, but {} layers", step.expert_layers, shape.layers));
    }
    Ok(())
}

/// b s h e.
const fn activation_bytes(shape: &Shape, step: &Step) -> u64 {
    step.micro_batch * step.sequence * shape.hidden * step.element_bytes
}

/// The parameters of a data parallel group, in bytes.
fn group_bytes(shape: &Shape, layout: &Layout, step: &Step) -> u64 {
    let parts = u64::from(layout.tensor) * u64::from(layout.pipeline);
    shape.parameters(layout.tensor).div_ceil(parts) * step.element_bytes
}

fn add_data(all: &mut Vec<Calls>, shape: &Shape, layout: &Layout, step: &Step) {
    if layout.data == 1 {
        return;
    }
    let bytes = group_bytes(shape, layout, step);
    let mut add = |operation, calls, bytes, purpose| {
        all.push(Calls { group: "data", operation, calls, bytes, ranks: layout.data, purpose });
    };
    let reductions = if layout.zero == Zero::One { 1 } else { step.micro_batches };
    match layout.zero {
        Zero::None if layout.tensor * layout.pipeline == 1 => {
            for (calls, bytes) in buckets(&shape.tensors(), step.element_bytes) {
                add("allreduce", calls, bytes, "gradients");
            }
        }
        Zero::None => add("allreduce", 1, bytes, "gradients"),
        Zero::One | Zero::Two => {
            let operation = if layout.sums_everywhere { "allreduce" } else { "reducescatter" };
            add(operation, reductions, bytes, "gradients");
            add("allgather", 1, bytes, "parameters");
        }
        Zero::Three => {
            add("allgather", 2 * step.micro_batches, bytes, "parameters, forward and back");
            add("reducescatter", step.micro_batches, bytes, "gradients");
        }
    }
}

fn add_tensor(all: &mut Vec<Calls>, shape: &Shape, layout: &Layout, step: &Step) {
    if layout.tensor == 1 {
        return;
    }
    let (bytes, times) = (activation_bytes(shape, step), step.micro_batches);
    let mut add = |operation, calls, bytes, purpose| {
        all.push(Calls { group: "tensor", operation, calls, bytes, ranks: layout.tensor, purpose });
    };
    if layout.sequence_parallel {
        add("allgather", 6 * shape.layers * times, bytes, "activations");
        add("reducescatter", 4 * shape.layers * times, bytes, "activations");
        let small = 4 * shape.layers * shape.hidden * step.element_bytes;
        add("allreduce", 1, small, "gradients of small parameters");
        return;
    }
    let each = if step.recomputes { 6 } else { 4 };
    add("allreduce", (each * shape.layers + 2) * times, bytes, "activations");
    add("allreduce", 3 * times, 4 * step.micro_batch * step.sequence, "the loss");
}

fn add_pipeline(all: &mut Vec<Calls>, shape: &Shape, layout: &Layout, step: &Step) {
    if layout.pipeline == 1 {
        return;
    }
    let bytes = activation_bytes(shape, step);
    let borders = u64::from(layout.pipeline) * u64::from(layout.chunks) - 1;
    let calls = 2 * borders * step.micro_batches;
    let parts = if layout.scatter_gather { u64::from(layout.tensor) } else { 1 };
    let mut add = |group, operation, calls, bytes, ranks, purpose| {
        all.push(Calls { group, operation, calls, bytes, ranks, purpose });
    };
    add("pipeline", "send", calls, bytes / parts, layout.pipeline, "activations and their gradients");
    if parts > 1 {
        add("tensor", "allgather", calls, bytes, layout.tensor, "what a stage received in parts");
    }
}

fn add_experts(all: &mut Vec<Calls>, shape: &Shape, layout: &Layout, step: &Step) {
    if layout.experts == 1 {
        return;
    }
    all.push(Calls {
        group: "experts",
        operation: "alltoall",
        calls: 4 * step.expert_layers * step.micro_batches,
        bytes: activation_bytes(shape, step) * step.top,
        ranks: layout.experts,
        purpose: "tokens to experts and back",
    });
}

#[cfg(test)]
mod tests;
