//! `shoal model`: what a training job should communicate in one step.
#![forbid(unsafe_code)]

mod compare;
mod synthetic;

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::model::{Calls, Layout, Shape, Step, Style, Zero, calls};

/// Says what a training job should communicate in one step, by formulas: calls and bytes by operation.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("shape").required(true).args(["preset", "config", "layers"])))]
pub struct Options {
    /// A known model: 19M, 125M, 1.3B, 13B, llama-7B, llama-13B, llama-33B, llama-65B
    #[arg(long, value_parser = Shape::named, value_name = "NAME")]
    pub preset: Option<Shape>,
    /// A Hugging Face config.json of a model of GPT-NeoX's or Llama's kind
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Layers of a model of GPT-NeoX's kind
    #[arg(long, requires = "hidden")]
    pub layers: Option<u64>,
    /// Its hidden size
    #[arg(long, requires = "layers")]
    pub hidden: Option<u64>,
    /// The vocabulary, before it is padded to whole blocks for every tensor parallel rank
    #[arg(long)]
    pub vocabulary: Option<u64>,
    /// Data parallel ranks
    #[arg(long, default_value_t = 1)]
    pub dp: u32,
    /// Tensor parallel ranks
    #[arg(long, default_value_t = 1)]
    pub tp: u32,
    /// Pipeline stages
    #[arg(long, default_value_t = 1)]
    pub pp: u32,
    /// Chunks of each stage; more than one: interleaved
    #[arg(long, default_value_t = 1)]
    pub chunks: u32,
    /// Ranks that share the experts of a layer
    #[arg(long, default_value_t = 1)]
    pub ep: u32,
    /// Layers with experts [default: all, where --ep is more than 1]
    #[arg(long)]
    pub expert_layers: Option<u64>,
    /// To how many experts a token goes
    #[arg(long, default_value_t = 2)]
    pub top: u64,
    /// What data parallel ranks share out: 1 optimizer state, 2 and gradients, 3 and parameters (as FSDP does)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub zero: u8,
    /// ZeRO-1 and 2 sum gradients on every rank, as DeepSpeed does by default
    #[arg(long)]
    pub deepspeed: bool,
    /// Split the sequence where tensor parallel ranks do not share layers
    #[arg(long)]
    pub sp: bool,
    /// Stages send a part for each tensor parallel rank
    #[arg(long)]
    pub scatter_gather: bool,
    /// All activations are computed again on the way back
    #[arg(long)]
    pub recompute: bool,
    /// Samples of a micro-batch
    #[arg(long, default_value_t = 1)]
    pub micro_batch: u64,
    /// Micro-batches of a step
    #[arg(long, default_value_t = 1)]
    pub micro_batches: u64,
    /// Tokens of a sample; several with commas
    #[arg(long, value_delimiter = ',', default_value = "2048", value_name = "TOKENS,...")]
    pub seq: Vec<u64>,
    /// The element type
    #[arg(long, value_enum, default_value_t = Element::Fp16)]
    pub dtype: Element,
    /// Write the step as traces into this folder, for shoal report; of several lengths the first
    #[arg(long, value_name = "FOLDER")]
    pub trace: Option<PathBuf>,
    /// Show where a job departs from this, by its traces (files, or folders of them); of several lengths the first
    #[arg(long, value_name = "TRACE", num_args = 1.., conflicts_with = "trace")]
    pub compare: Vec<PathBuf>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Element types by their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Element {
    /// 1 byte.
    Fp8,
    /// 2 bytes.
    Fp16,
    /// 2 bytes.
    Bf16,
    /// 4 bytes.
    Fp32,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// One object a line.
    Json,
}

/// What is read of a config.json.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    num_hidden_layers: u64,
    hidden_size: u64,
    vocab_size: u64,
    intermediate_size: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn read_config(path: &Path) -> Result<Shape, Failure> {
    let wrong = |words: String| Failure(format!("{}: {words}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    shape_of(&text).map_err(wrong)
}

fn shape_of(text: &str) -> Result<Shape, String> {
    let config: Config = serde_json::from_str(text)
        .map_err(|error| format!("{error}; expected the config.json of a model"))?;
    let style = match config.model_type.as_str() {
        "gpt_neox" => {
            let usual = 4 * config.hidden_size;
            match config.intermediate_size {
                Some(wide) if wide != usual => {
                    return Err(format!(
                        "intermediate_size is {wide}, but only {usual} is known for gpt_neox"
                    ));
                }
                _ => Style::Neox,
            }
        }
        "llama" => {
            if config.num_key_value_heads.is_some_and(|heads| Some(heads) != config.num_attention_heads) {
                return Err("heads share keys and values, which is not known yet".into());
            }
            let feed_forward = config.intermediate_size.ok_or("intermediate_size is missing")?;
            Style::Llama { feed_forward }
        }
        other => return Err(format!("model_type is {other:?}, expected gpt_neox or llama")),
    };
    if config.tie_word_embeddings {
        return Err("input and output share an embedding, which is not known yet".into());
    }
    Ok(Shape {
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        vocabulary: config.vocab_size,
        style,
    })
}

#[derive(Serialize)]
struct Line<'calls> {
    sequence: u64,
    group: &'calls str,
    ranks: u32,
    operation: &'calls str,
    calls: u64,
    bytes: u64,
    total_bytes: u64,
    wire_bytes: u64,
    purpose: &'calls str,
}

impl Line<'_> {
    fn new(sequence: u64, calls: &Calls) -> Line<'_> {
        Line {
            sequence,
            group: calls.group,
            ranks: calls.ranks,
            operation: calls.operation,
            calls: calls.calls,
            bytes: calls.bytes,
            total_bytes: calls.total_bytes(),
            wire_bytes: calls.wire_bytes(),
            purpose: calls.purpose,
        }
    }
}

/// Prints the calls of a step.
///
/// # Errors
/// The shape cannot be read, or shape and layout do not fit together.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let shape = shape(options)?;
    let layout = layout(options);
    if options.trace.is_some() || !options.compare.is_empty() {
        let sequence = options.seq.first().copied().unwrap_or(1);
        let step = step(options, &shape, sequence);
        let calls = calls(&shape, &layout, &step).map_err(Failure)?;
        return match &options.trace {
            Some(folder) => {
                let files = synthetic::write(&calls, layout.chunks, step.element_bytes, folder)?;
                put_line!("{files} traces of one step in {}", folder.display());
                Ok(true)
            }
            None => compare::run(&calls, &options.compare, options.format),
        };
    }
    if options.format == Format::Table {
        put_line!(
            "# {} layers, hidden size {}, {} parameters",
            shape.layers,
            shape.hidden,
            shape.parameters(layout.tensor)
        );
        put_line!(
            "# {:>8} {:>9} {:>6} {:>14} {:>8} {:>15} {:>18} {:>18}  for",
            "sequence",
            "group",
            "ranks",
            "operation",
            "calls",
            "bytes",
            "total_bytes",
            "wire_bytes"
        );
    }
    for &sequence in &options.seq {
        let calls = calls(&shape, &layout, &step(options, &shape, sequence)).map_err(Failure)?;
        if calls.is_empty() && options.format == Format::Table {
            put_line!("# one rank communicates nothing; see --dp, --tp, --pp and --ep");
        }
        for calls in &calls {
            let line = Line::new(sequence, calls);
            match options.format {
                Format::Table => put_line!(
                    "{:>10} {:>9} {:>6} {:>14} {:>8} {:>15} {:>18} {:>18}  {}",
                    line.sequence,
                    line.group,
                    line.ranks,
                    line.operation,
                    line.calls,
                    line.bytes,
                    line.total_bytes,
                    line.wire_bytes,
                    line.purpose
                ),
                Format::Json => put_line!(
                    "{}",
                    serde_json::to_string(&line)
                        .map_err(|error| Failure(format!("cannot be written as JSON: {error}")))?
                ),
            }
        }
    }
    Ok(true)
}

fn shape(options: &Options) -> Result<Shape, Failure> {
    let mut shape = match (&options.preset, &options.config, options.layers, options.hidden) {
        (Some(shape), ..) => *shape,
        (_, Some(path), ..) => read_config(path)?,
        (_, _, Some(layers), Some(hidden)) => {
            Shape { layers, hidden, vocabulary: 50_304, style: Style::Neox }
        }
        _ => return Err(Failure("expected --preset, --config, or --layers and --hidden".into())),
    };
    shape.vocabulary = options.vocabulary.unwrap_or(shape.vocabulary);
    Ok(shape)
}

fn layout(options: &Options) -> Layout {
    Layout {
        data: options.dp,
        tensor: options.tp,
        pipeline: options.pp,
        chunks: options.chunks,
        experts: options.ep,
        zero: [Zero::None, Zero::One, Zero::Two, Zero::Three][usize::from(options.zero.min(3))],
        sums_everywhere: options.deepspeed,
        sequence_parallel: options.sp,
        scatter_gather: options.scatter_gather,
    }
}

fn step(options: &Options, shape: &Shape, sequence: u64) -> Step {
    Step {
        micro_batch: options.micro_batch,
        micro_batches: options.micro_batches,
        sequence,
        element_bytes: match options.dtype {
            Element::Fp8 => 1,
            Element::Fp16 | Element::Bf16 => 2,
            Element::Fp32 => 4,
        },
        recomputes: options.recompute,
        top: options.top,
        expert_layers: options.expert_layers.unwrap_or(if options.ep > 1 { shape.layers } else { 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_gives_the_shape_or_the_reason_why_not() {
        let llama = "{\"model_type\":\"llama\",\"num_hidden_layers\":32,\"hidden_size\":4096,\
                     \"vocab_size\":32000,\"intermediate_size\":11008,\"num_attention_heads\":32,\"rms_norm_eps\":1e-5}";
        assert_eq!(shape_of(llama), Shape::named("llama-7B"));
        let shared = llama
            .replace("\"num_attention_heads\":32", "\"num_attention_heads\":32,\"num_key_value_heads\":8");
        for (text, words) in [
            ("{}".to_owned(), "missing field"),
            (llama.replace("llama", "bert"), "expected gpt_neox or llama"),
            (shared, "share keys and values"),
            (llama.replace("llama", "gpt_neox"), "only 16384 is known"),
        ] {
            let error = shape_of(&text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
