//! Weights, packed for matrix products.

use std::fmt;
use std::ops::Range;

use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Real;
use super::aligned::Aligned;
use super::memory::made;
use crate::error::{CandleError, Result};

/// Columns of a panel: 64 bytes of `f32`.
pub(crate) const PANEL: usize = 16;

/// The right side of a product, `[depth, outputs]`, as `[outputs / 16, depth, 16]`; the last panel is filled up with zeros.
pub(crate) struct Panels {
    outputs: usize,
    depth: usize,
    stored: Stored,
}

impl fmt::Debug for Panels {
    /// Without the weights, of which there may be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = match self.stored {
            Stored::F64(_) => "f64",
            Stored::F32(_) => "f32",
            Stored::F16(_) => "f16",
            Stored::BF16(_) => "bf16",
        };
        let Self { outputs, depth, .. } = self;
        f.debug_struct("Panels")
            .field("outputs", outputs)
            .field("depth", depth)
            .field("dtype", &dtype)
            .finish_non_exhaustive()
    }
}

/// Packed weights of any element type.
pub(crate) enum Stored {
    F64(Aligned<f64>),
    F32(Aligned<f32>),
    F16(Aligned<f16>),
    BF16(Aligned<bf16>),
}

/// An element type that weights may be stored in.
pub(crate) trait Storable: WithDType {
    fn store(values: Aligned<Self>) -> Stored;
}

macro_rules! storable {
    ($($T:ident $variant:ident),*) => {
        $(impl Storable for $T {
            fn store(values: Aligned<Self>) -> Stored {
                Stored::$variant(values)
            }
        })*
    };
}
storable!(f64 F64, f32 F32, f16 F16, bf16 BF16);

impl Panels {
    /// Packs weights `[outputs, depth]`; row `k` of the panels is what `source(k)` is of the weights' last axis.
    pub(crate) fn pack<T: Storable>(
        weights: &[T],
        outputs: usize,
        depth: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Self {
        let panel = depth * PANEL;
        let packed = made(outputs.div_ceil(PANEL) * panel, panel.max(1), |panel, packed| {
            let packed = packed.zeroed();
            for (k, row) in packed.chunks_mut(PANEL).enumerate() {
                let outputs = panel * PANEL..outputs.min((panel + 1) * PANEL);
                for (to, output) in row.iter_mut().zip(outputs) {
                    *to = weights[output * depth + source(k)];
                }
            }
            packed
        });
        Self { outputs, depth, stored: T::store(packed) }
    }

    /// Columns of the right side.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows of the right side.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Checks that [`Self::block`] can give out elements of type `T`.
    pub(crate) fn check<T: Real>(&self) -> Result<()> {
        T::of_stored(&self.stored, 0..0, &mut Vec::new())
            .map(|_| ())
            .ok_or(CandleError::ElementType { operation: "product with packed weights", found: T::DTYPE })
    }

    /// Returns rows of a panel, one after the other; weights in half precision are widened into `scratch`.
    #[inline]
    pub(crate) fn block<'a, T: Real>(
        &'a self,
        panel: usize,
        depth: Range<usize>,
        scratch: &'a mut Vec<T>,
    ) -> &'a [T] {
        let row = |k: usize| (panel * self.depth + k) * PANEL;
        T::of_stored(&self.stored, row(depth.start)..row(depth.end), scratch).unwrap_or(&[])
    }
}

/// Widens halves that `scratch` then holds.
pub(super) fn widened<'a, H>(halves: &[H], scratch: &'a mut Vec<f32>) -> &'a [f32]
where
    [H]: HalfFloatSliceExt,
{
    scratch.resize(halves.len(), 0.0);
    halves.convert_to_f32_slice(scratch);
    scratch
}
