//! Attention in blocks of queries and keys: the matrix of scores never exists as a whole.
//!
//! For a block of queries the keys are gone through block by block with a running maximum and sum (arXiv:1805.02867,
//! arXiv:2205.14135). Which blocks the keys form follows from the shapes alone.

use candle_core::{D, Tensor};
use edict_stable_diffusion::AttentionOptions;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::matmul::{MatrixMut, Start, multiply};
use super::panels::{Aligned, PANEL};
use super::{Real, by_width, in_wide, misfit, sum, token_dims, widen, with_slice};
use crate::error::Result;

/// Queries of a block at most: a multiple of every tile's height.
const QUERIES: usize = 96;

/// Keys of a block: with the queries' scores they fit the second cache. A multiple of a panel's width.
const KEYS: usize = 256;

/// Channels of a head that are multiplied at once.
const DEPTH: usize = 256;

/// Bytes of scores that exist at once on other devices; the scores of a single query for all heads may need more.
const BLOCK_BYTES: usize = 32 << 20;

/// Computes `softmax(q k^T / sqrt(channels / heads)) v` head by head.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    options: AttentionOptions,
) -> Result<Tensor> {
    let [batch, n, channels] = token_dims("attention", query)?;
    let [_, m, _] = token_dims("attention", key)?;
    if heads == 0
        || channels % heads != 0
        || m == 0
        || key.dims() != [batch, m, channels]
        || value.dims() != key.dims()
    {
        return Err(misfit(
            "attention",
            "a query [batch, n, channels], a key and a value [batch, m, channels], a number of heads that divides channels",
            &[query.dims(), key.dims(), value.dims(), &[heads]],
        ));
    }
    if !query.device().is_cpu() {
        return composed(query, key, value, heads, options, BLOCK_BYTES);
    }
    let sizes = Sizes { n, m, channels, heads, causal: options.causal };
    in_wide(query, |query| {
        let (key, value) = (widen(key)?, widen(value)?);
        by_width!("attention", query, T => {
            let out = with_slice(query, |query: &[T]| {
                with_slice(&key, |key: &[T]| {
                    with_slice(&value, |value: &[T]| attention_cpu(query, key, value, batch, &sizes))
                })
            })???;
            Ok(Tensor::from_vec(out, query.shape(), query.device())?)
        })
    })
}

struct Sizes {
    /// Queries.
    n: usize,
    /// Keys.
    m: usize,
    channels: usize,
    heads: usize,
    causal: bool,
}

impl Sizes {
    /// Channels of a head.
    fn depth(&self) -> usize {
        self.channels / self.heads
    }

    /// Keys, filled up to whole panels.
    fn padded(&self) -> usize {
        self.m.next_multiple_of(PANEL)
    }
}

/// Keys and values of one head, packed for products.
struct Head<T> {
    /// `[m / 16, depth, 16]`.
    keys: Aligned<T>,
    /// `[depth / 16, m, 16]`, with `m` filled up.
    values: Aligned<T>,
}

impl<T: Real> Head<T> {
    fn pack(key: &[T], value: &[T], head: usize, sizes: &Sizes) -> Self {
        let (depth, padded) = (sizes.depth(), sizes.padded());
        let mut keys = Aligned::zeros(padded * depth);
        let mut values = Aligned::zeros(depth.next_multiple_of(PANEL) * padded);
        let rows = key.chunks(sizes.channels).zip(value.chunks(sizes.channels));
        for (i, (key, value)) in rows.enumerate() {
            let column = &mut keys.as_mut()[i / PANEL * depth * PANEL + i % PANEL..];
            for (to, &x) in column.iter_mut().step_by(PANEL).zip(&key[head * depth..][..depth]) {
                *to = x;
            }
            for (panel, x) in value[head * depth..][..depth].chunks(PANEL).enumerate() {
                values.as_mut()[(panel * padded + i) * PANEL..][..x.len()].copy_from_slice(x);
            }
        }
        Self { keys, values }
    }
}

fn attention_cpu<T: Real>(query: &[T], key: &[T], value: &[T], batch: usize, sizes: &Sizes) -> Vec<T> {
    let Sizes { n, m, channels, heads, .. } = *sizes;
    let mut out = vec![T::zero(); query.len()];
    if out.is_empty() {
        return out;
    }
    let packed: Vec<Head<T>> = (0..batch * heads)
        .into_par_iter()
        .map(|i| {
            let item = i / heads * m * channels..(i / heads + 1) * m * channels;
            Head::pack(&key[item.clone()], &value[item], i % heads, sizes)
        })
        .collect();
    let fair = (batch * n).div_ceil(4 * rayon::current_num_threads());
    // Causal queries share what they do not see with those beside them, times zero: which those are must not depend on the threads.
    let queries = if sizes.causal { QUERIES } else { fair.next_multiple_of(12).min(QUERIES) };
    let blocks: Vec<_> = (out.chunks_mut(n * channels).zip(query.chunks(n * channels)).enumerate())
        .flat_map(|(item, (out, query))| {
            let heads = &packed[item * heads..][..heads];
            let parts = out.chunks_mut(queries * channels).zip(query.chunks(queries * channels));
            parts.enumerate().map(move |(i, (out, query))| Block {
                first: i * queries,
                query,
                out,
                heads,
                sizes,
            })
        })
        .collect();
    blocks.into_par_iter().for_each(|block| Arch::new().dispatch(block));
    out
}

/// Some queries of an item, with all heads.
struct Block<'a, T> {
    first: usize,
    query: &'a [T],
    out: &'a mut [T],
    heads: &'a [Head<T>],
    sizes: &'a Sizes,
}

impl<T: Real> WithSimd for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { first, query, out, heads, sizes } = self;
        let (channels, depth) = (sizes.channels, sizes.depth());
        let rows = query.len() / channels;
        let scale = T::of(1.0 / (depth as f64).sqrt());
        let mut scores = Aligned::zeros(rows * KEYS);
        let mut mixed = Aligned::zeros(rows * depth);
        for (head, packed) in heads.iter().enumerate() {
            let query = |row: usize| &query[row * channels + head * depth..][..depth];
            let mut running = vec![Running::new(); rows];
            mixed.as_mut().fill(T::zero());
            let seen = if sizes.causal { sizes.m.min(first + rows) } else { sizes.m };
            for from in (0..seen).step_by(KEYS) {
                let keys = KEYS.min(sizes.m - from);
                let width = keys.next_multiple_of(PANEL);
                score(simd, rows, query, packed, from..from + width, &mut scores);
                let both = scores.as_mut().chunks_mut(width).zip(mixed.as_mut().chunks_mut(depth));
                for (row, ((scores, mixed), running)) in both.zip(&mut running).enumerate() {
                    let seen =
                        if sizes.causal { (first + row + 1).saturating_sub(from).min(keys) } else { keys };
                    let (seen, unseen) = scores.split_at_mut(seen);
                    unseen.fill(T::zero());
                    running.weigh(seen, mixed, scale);
                }
                mix(simd, rows, packed, (from, width), sizes, &scores, &mut mixed);
            }
            for (row, (mixed, running)) in mixed.chunks(depth).zip(running).enumerate() {
                let factor = T::of(1.0 / running.sum);
                for (out, &x) in out[row * channels + head * depth..][..depth].iter_mut().zip(mixed) {
                    *out = x * factor;
                }
            }
        }
    }
}

/// Fills `scores` with the products of queries and a block of keys, `[rows, width]`.
#[inline(always)]
fn score<'a, S: Simd, T: Real>(
    simd: S,
    rows: usize,
    query: impl Fn(usize) -> &'a [T],
    head: &Head<T>,
    keys: std::ops::Range<usize>,
    scores: &mut Aligned<T>,
) {
    let depth = query(0).len();
    let width = keys.len();
    for channel in (0..depth).step_by(DEPTH) {
        let channels = channel..depth.min(channel + DEPTH);
        for column in (0..width).step_by(2 * PANEL) {
            let panel = |column: usize| {
                if column >= width {
                    return &[][..];
                }
                let at = (keys.start + column) * depth + channel * PANEL;
                &head.keys[at..][..channels.len() * PANEL]
            };
            let start = if channel == 0 { Start::Zero } else { Start::Add };
            let out = &mut MatrixMut { elements: scores.as_mut(), width, column };
            let a = |row: usize| &query(row)[channels.clone()];
            multiply(simd, rows, a, [panel(column), panel(column + PANEL)], start, out);
        }
    }
}

/// Adds values, weighed, to `mixed` `[rows, depth]`.
#[inline(always)]
fn mix<S: Simd, T: Real>(
    simd: S,
    rows: usize,
    head: &Head<T>,
    (from, width): (usize, usize),
    sizes: &Sizes,
    weights: &[T],
    mixed: &mut Aligned<T>,
) {
    let depth = sizes.depth();
    for column in (0..depth).step_by(2 * PANEL) {
        let panel = |column: usize| {
            if column >= depth {
                return &[][..];
            }
            &head.values[(column / PANEL * sizes.padded() + from) * PANEL..][..width * PANEL]
        };
        let out = &mut MatrixMut { elements: mixed.as_mut(), width: depth, column };
        let a = |row: usize| &weights[row * width..][..width];
        multiply(simd, rows, a, [panel(column), panel(column + PANEL)], Start::Add, out);
    }
}

/// What is known of a query's scores so far.
#[derive(Clone, Copy)]
struct Running<T> {
    max: T,
    /// Of `exp(scale (score - max))`.
    sum: f64,
}

impl<T: Real> Running<T> {
    fn new() -> Self {
        Self { max: T::of(f64::NEG_INFINITY), sum: 0.0 }
    }

    /// Replaces scores by their weights, and weighs what was mixed before anew if a larger score has come.
    #[inline(always)]
    fn weigh(&mut self, scores: &mut [T], mixed: &mut [T], scale: T) {
        if scores.is_empty() {
            return;
        }
        let max = larger(self.max, largest(scores));
        if max == T::of(f64::NEG_INFINITY) {
            // No score that counts has come yet; one that is not a number stays so.
            for score in scores.iter_mut() {
                *score = if score.wide().is_nan() { *score } else { T::zero() };
            }
            self.sum += sum(scores, |weight| weight);
            return;
        }
        if max != self.max {
            let factor = ((self.max - max) * scale).exp();
            self.sum *= factor.wide();
            mixed.iter_mut().for_each(|x| *x *= factor);
            self.max = max;
        }
        for score in scores.iter_mut() {
            *score = ((*score - max) * scale).exp();
        }
        self.sum += sum(scores, |weight| weight);
    }
}

/// Returns the larger of two, the first if one of them is not a number.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Returns the largest element; what is not a number is passed over.
#[inline(always)]
fn largest<T: Real>(scores: &[T]) -> T {
    let mut lanes = [T::of(f64::NEG_INFINITY); 16];
    let (whole, rest) = scores.as_chunks::<16>();
    for scores in whole {
        for (lane, &score) in lanes.iter_mut().zip(scores) {
            *lane = larger(*lane, score);
        }
    }
    rest.iter().copied().chain(lanes).fold(T::of(f64::NEG_INFINITY), larger)
}

/// Attention out of candle's operations, for devices without a kernel here.
fn composed(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    options: AttentionOptions,
    block_bytes: usize,
) -> Result<Tensor> {
    let (batch, n, channels) = query.dims3()?;
    let m = key.dim(1)?;
    let (dtype, device, depth) = (query.dtype(), query.device(), channels / heads);
    let by_head =
        |x: &Tensor, tokens: usize| x.reshape((batch, tokens, heads, depth))?.transpose(1, 2)?.contiguous();
    // Scaled before the product: scores of half formats stay in range.
    let query = by_head(&(query * (1.0 / (depth as f64).sqrt()))?, n)?;
    let (key, value) = (by_head(key, m)?.t()?.contiguous()?, by_head(value, m)?);
    let (query, key) = if options.upcast { (widen(&query)?, widen(&key)?) } else { (query, key) };
    let block = (block_bytes / (batch * heads * m * query.dtype().size_in_bytes())).clamp(1, n.max(1));
    let mut blocks = Vec::new();
    for first in (0..n).step_by(block) {
        let rows = block.min(n - first);
        let mut scores = query.narrow(2, first, rows)?.contiguous()?.matmul(&key)?;
        if options.causal {
            let mask = (0..rows * m).map(|i| if i % m <= first + i / m { 0.0 } else { f32::NEG_INFINITY });
            let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), (rows, m), device)?;
            scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
        }
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(dtype)?;
        blocks.push(weights.matmul(&value)?);
    }
    let out = if blocks.is_empty() { query.zeros_like()? } else { Tensor::cat(&blocks, 2)? };
    Ok(out.transpose(1, 2)?.contiguous()?.reshape((batch, n, channels))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};

    /// As it is defined, with all scores at once.
    fn plain(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, causal: bool) -> Tensor {
        let options = AttentionOptions { causal, upcast: false };
        composed(query, key, value, heads, options, usize::MAX).unwrap()
    }

    #[test]
    fn blocks_of_queries_and_keys_give_the_same_tokens() {
        // A few; a block and a bit of either; many channels.
        for (n, m, channels, heads) in [
            (23, 29, 12, 3),
            (5, 77, 40, 1),
            (QUERIES + 7, KEYS + 9, 34, 2),
            (300, 300, 16, 1),
            (13, 40, 300, 1),
        ] {
            let shape = |tokens| [2, tokens, channels];
            let (query, key, value) = (values(&shape(n), 1), values(&shape(m), 2), values(&shape(m), 3));
            for causal in [false, true] {
                let options = AttentionOptions { causal, upcast: false };
                let found = attention(&query, &key, &value, heads, options).unwrap();
                assert_close(&found, &plain(&query, &key, &value, heads, causal), 1e-14);
            }
        }
    }

    #[test]
    fn candle_attends_alike() {
        let (query, key, value) = (values(&[2, 23, 12], 1), values(&[2, 29, 12], 2), values(&[2, 29, 12], 3));
        for options in [(false, false), (true, false), (true, true)] {
            let options = AttentionOptions { causal: options.0, upcast: options.1 };
            let expected = attention(&query, &key, &value, 3, options).unwrap();
            for bytes in [0, 5 * 2 * 3 * 29 * size_of::<f64>(), 1 << 20] {
                assert_close(&composed(&query, &key, &value, 3, options, bytes).unwrap(), &expected, 1e-14);
            }
        }
    }
}
