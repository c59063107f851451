//! Models by their shape.
#![forbid(unsafe_code)]

/// How a model is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// GPT-NeoX: biases, separate output embedding, rotary positions.
    Neox,
    /// Llama: gated feed-forward of its own width, no biases.
    Llama {
        /// That width.
        feed_forward: u64,
    },
}

/// A model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: u64,
    /// The hidden size.
    pub hidden: u64,
    /// The vocabulary before it is padded.
    pub vocabulary: u64,
    /// How it is built.
    pub style: Style,
}

const fn neox(layers: u64, hidden: u64) -> Shape {
    Shape { layers, hidden, vocabulary: 50_304, style: Style::Neox }
}

const fn llama(layers: u64, hidden: u64, feed_forward: u64) -> Shape {
    Shape { layers, hidden, vocabulary: 32_000, style: Style::Llama { feed_forward } }
}

/// The models that are known by name.
pub const PRESETS: [(&str, Shape); 8] = [
    ("19M", neox(6, 512)),
    ("125M", neox(12, 768)),
    ("1.3B", neox(24, 2048)),
    ("13B", neox(40, 5120)),
    ("llama-7B", llama(32, 4096, 11_008)),
    ("llama-13B", llama(40, 5120, 13_824)),
    ("llama-33B", llama(60, 6656, 17_920)),
    ("llama-65B", llama(80, 8192, 22_016)),
];

impl Shape {
    /// The model of that name, in letters of either case.
    ///
    /// # Errors
    /// The names that are known.
    pub fn named(name: &str) -> Result<Shape, String> {
        let known = PRESETS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, shape)| *shape).ok_or_else(|| {
            let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
            format!("{name:?} is no preset: expected one of {}", names.join(", "))
        })
    }

    /// The vocabulary, padded so that every tensor parallel rank has whole blocks of 128 rows.
    #[must_use]
    pub fn padded_vocabulary(&self, tensor: u32) -> u64 {
        match self.style {
            Style::Neox => self.vocabulary.next_multiple_of(128 * u64::from(tensor.max(1))),
            Style::Llama { .. } => self.vocabulary,
        }
    }

    /// The parameters of one layer, tensor by tensor.
    fn layer(&self) -> Vec<u64> {
        let h = self.hidden;
        match self.style {
            // Two norms, attention in and out, feed-forward in and out, each with what is added.
            Style::Neox => vec![h, h, 3 * h * h, 3 * h, h * h, h, h, h, 4 * h * h, 4 * h, 4 * h * h, h],
            Style::Llama { feed_forward } => {
                let wide = h * feed_forward;
                vec![h * h, h * h, h * h, h * h, wide, wide, wide, h, h]
            }
        }
    }

    /// The parameters outside the layers: embedding, last norm, output.
    fn ends(&self, tensor: u32) -> [Vec<u64>; 2] {
        let (h, rows) = (self.hidden, self.padded_vocabulary(tensor));
        match self.style {
            Style::Neox => [vec![rows * h], vec![h, h, rows * h]],
            Style::Llama { .. } => [vec![rows * h], vec![h, rows * h]],
        }
    }

    /// Every tensor of the model, in order.
    #[must_use]
    pub fn tensors(&self) -> Vec<u64> {
        let [first, last] = self.ends(1);
        let layers = (0..self.layers).flat_map(|_| self.layer());
        first.into_iter().chain(layers).chain(last).collect()
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self, tensor: u32) -> u64 {
        let ends: u64 = self.ends(tensor).iter().flatten().sum();
        self.layers * self.layer().iter().sum::<u64>() + ends
    }

    /// All but the embeddings.
    #[must_use]
    pub fn inner_parameters(&self) -> u64 {
        self.parameters(1) - 2 * self.padded_vocabulary(1) * self.hidden
    }
}
