//! Attention in blocks of queries and keys: the matrix of scores never exists as a whole.
//!
//! Queries stand side by side in the lanes of the vectors, so that each has a largest score, a sum and a mixture of its own without any
//! lane looking at another. For a block of queries the keys are gone through block by block with a running maximum and sum (arXiv:1805.02867,
//! arXiv:2205.14135). Which blocks the keys form follows from the shapes alone.

use std::marker::PhantomData;

use candle_core::{D, Tensor};
use edict_stable_diffusion::AttentionOptions;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::memory::{made, written};
use super::tile::{MatrixMut, Start, WIDEST, multiply_wide, wide};
use super::{Real, by_width, in_wide, misfit, token_dims, widen, with_slice};
use crate::error::Result;

/// Keys of a block: the first cache holds their scores.
const KEYS: usize = 128;

/// Channels of a head that are multiplied at once.
const DEPTH: usize = 256;

/// Weights of a query that are added up in their own precision, before they are added in f64.
const SHORT: usize = 16;

/// Channels whose values are taken apart together: those of a line of the cache.
const BY_CHANNEL: usize = 16;

/// Bytes of keys and values that the second cache holds beside what else is worked on.
const NEAR: usize = 1 << 20;

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
                    with_slice(&value, |value: &[T]| {
                        attention_cpu(Arch::new(), query, key, value, &sizes)
                    })
                })
            })???;
            out.into_tensor(query.shape())
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

    /// Distance of one channel's values to the next's: with a power of two, all would compete for the same lines of the cache.
    fn stride(&self) -> usize {
        (self.m + 1).next_multiple_of(16) + 16
    }
}

/// Takes the values of an item apart, `[channels, stride]`: a channel's values are then a row of the product with the weights.
fn by_channel<T: Real>(value: &[T], sizes: &Sizes) -> Aligned<T> {
    let stride = sizes.stride();
    made(sizes.channels * stride, BY_CHANNEL * stride, |i, out| {
        let out = out.zeroed();
        for (j, value) in value.chunks(sizes.channels).enumerate() {
            for (to, &x) in out[j..].iter_mut().step_by(stride).zip(&value[i * BY_CHANNEL..]) {
                *to = x;
            }
        }
        out
    })
}

fn attention_cpu<T: Real>(arch: Arch, query: &[T], key: &[T], value: &[T], sizes: &Sizes) -> Aligned<T> {
    let Sizes { n, m, channels, .. } = *sizes;
    if query.is_empty() {
        return Aligned::default();
    }
    let values: Vec<Aligned<T>> = value.chunks(m * channels).map(|value| by_channel(value, sizes)).collect();
    let width = arch.dispatch(Width::<T>(PhantomData));
    let rows = width * together::<T>(query.len().div_ceil(width * channels), sizes);
    written(query.len(), |out| {
        let items = out.chunks(n * channels).zip(query.chunks(n * channels));
        let parts: Vec<_> = (items.enumerate())
            .flat_map(|(item, (out, query))| {
                let parts = out.chunks(rows * channels).zip(query.chunks(rows * channels));
                parts.enumerate().map(move |(i, (out, query))| (item, i * rows, out, query))
            })
            .collect();
        parts.into_par_iter().for_each(|(item, first, out, query)| {
            let key = &key[item * m * channels..][..m * channels];
            arch.dispatch(Blocks { first, query, out: out.zeroed(), key, values: &values[item], sizes });
        });
    })
}

/// Tells how many of all blocks of queries a thread takes at a time. If the second cache does not hold an item's keys and values, they are
/// several: those of a head then stay there for all of them.
fn together<T>(blocks: usize, sizes: &Sizes) -> usize {
    if 2 * sizes.m * sizes.channels * size_of::<T>() <= NEAR {
        return 1;
    }
    // Several parts a thread, since some threads are late.
    (blocks / (4 * rayon::current_num_threads())).max(1)
}

/// Tells how many queries a product takes with an instruction set.
struct Width<T>(PhantomData<T>);

impl<T: Real> WithSimd for Width<T> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        wide::<S, T>()
    }
}

/// Some blocks of an item's queries, with all heads.
struct Blocks<'a, T> {
    first: usize,
    query: &'a [T],
    out: &'a mut [T],
    /// `[m, channels]`
    key: &'a [T],
    /// `[channels, m]`
    values: &'a [T],
    sizes: &'a Sizes,
}

impl<T: Real> WithSimd for Blocks<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { first, query, out, key, values, sizes } = self;
        let (m, channels, depth, stride) = (sizes.m, sizes.channels, sizes.depth(), sizes.stride());
        let width = wide::<S, T>();
        // Weights are powers of two.
        let scale = T::of(std::f64::consts::LOG2_E / (depth as f64).sqrt());
        // A block's queries, `[depth, width]`. Lanes without one hold 0 or another block's: nothing looks at them.
        let mut panel = Aligned::zeros(depth * width);
        // `[keys, width]`
        let mut scores = Aligned::zeros(KEYS * width);
        // `[depth, width]`
        let mut mixed = Aligned::zeros(depth * width);
        let mut rows: Vec<&[T]> = Vec::new();
        let all = query.chunks(width * channels).zip((first..).step_by(width));
        for head in 0..sizes.heads {
            let at = head * depth;
            for ((query, first), out) in all.clone().zip(out.chunks_mut(width * channels)) {
                for (i, query) in query.chunks(channels).enumerate() {
                    for (to, &x) in panel.as_mut()[i..].iter_mut().step_by(width).zip(&query[at..][..depth]) {
                        *to = x;
                    }
                }
                let seen = if sizes.causal { m.min(first + query.len() / channels) } else { m };
                let mut running = Running::new();
                mixed.as_mut().fill(T::zero());
                for from in (0..seen).step_by(KEYS) {
                    let keys = KEYS.min(seen - from);
                    let scores = &mut scores.as_mut()[..keys * width];
                    for channel in (0..depth).step_by(DEPTH) {
                        let part = channel..depth.min(channel + DEPTH);
                        let start = if channel == 0 { Start::Zero } else { Start::Add };
                        rows.clear();
                        let keys = key[from * channels..].chunks(channels).take(keys);
                        rows.extend(keys.map(|key| &key[at..][part.clone()]));
                        let panel = &panel[channel * width..part.end * width];
                        multiply_wide(simd, &rows, panel, start, &mut MatrixMut { elements: scores, width });
                    }
                    if sizes.causal && from + keys > first + 1 {
                        hide(scores, width, (from, first));
                    }
                    running.weigh(simd, scores, mixed.as_mut(), scale, width);
                    rows.clear();
                    rows.extend((at..at + depth).map(|channel| &values[channel * stride + from..][..keys]));
                    let mixed = &mut MatrixMut { elements: mixed.as_mut(), width };
                    multiply_wide(simd, &rows, scores, Start::Add, mixed);
                }
                for (i, out) in out.chunks_mut(channels).enumerate() {
                    let factor = T::of(1.0 / running.sum[i]);
                    for (out, &x) in out[at..][..depth].iter_mut().zip(mixed[i..].iter().step_by(width)) {
                        *out = x * factor;
                    }
                }
            }
        }
    }
}

/// Sets scores of keys that come after their query to minus infinity; the first key is number `from`, the first query number `first`.
fn hide<T: Real>(scores: &mut [T], width: usize, (from, first): (usize, usize)) {
    for (key, scores) in scores.chunks_mut(width).enumerate() {
        for (query, score) in scores.iter_mut().enumerate() {
            if from + key > first + query {
                *score = T::of(f64::NEG_INFINITY);
            }
        }
    }
}

/// What is known of the queries' scores so far.
struct Running<T> {
    /// The largest score times the scale.
    top: [T; WIDEST],
    /// Of `2^(scale score - top)`.
    sum: [f64; WIDEST],
}

impl<T: Real> Running<T> {
    fn new() -> Self {
        Self { top: [T::of(f64::NEG_INFINITY); WIDEST], sum: [0.0; WIDEST] }
    }

    /// Replaces the scores of a block, `[keys, width]`, by their weights, and weighs what was mixed before, `[depth, width]`, anew where a
    /// larger score has come.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, scores: &mut [T], mixed: &mut [T], scale: T, width: usize) {
        let mut largest = [T::of(f64::NEG_INFINITY); WIDEST];
        let all = T::vectors_mut::<S>(&mut largest[..width]);
        let many = all.len();
        for (v, largest) in all.iter_mut().enumerate() {
            let mut chain = *largest;
            for &x in T::vectors::<S>(scores)[v..].iter().step_by(many) {
                chain = T::larger_each(simd, chain, x);
            }
            *largest = chain;
        }
        let mut shift = [T::zero(); WIDEST];
        let mut factor = [T::of(1.0); WIDEST];
        let mut changed = false;
        for i in 0..width {
            let top = larger(self.top[i], largest[i] * scale);
            if top != self.top[i] {
                factor[i] = (self.top[i] - top).exp2_below_one::<S>();
                self.top[i] = top;
                self.sum[i] *= factor[i].wide();
                changed = true;
            }
            // Without a score that counts all weights are 0, whatever is subtracted.
            shift[i] = if top == T::of(f64::NEG_INFINITY) { T::zero() } else { T::zero() - top };
        }
        if changed {
            for mixed in mixed.chunks_mut(width) {
                for (mixed, factor) in mixed.iter_mut().zip(&factor) {
                    *mixed *= *factor;
                }
            }
        }
        for scores in scores.chunks_mut(SHORT * width) {
            let mut sums = [T::zero(); WIDEST];
            for scores in scores.chunks_mut(width) {
                for ((score, shift), sum) in scores.iter_mut().zip(&shift).zip(&mut sums) {
                    // The rounding of `top` makes the largest weight differ from 1, and all the others by the same factor.
                    *score = score.fused::<S>(scale, *shift).exp2_below_one::<S>();
                    *sum += *score;
                }
            }
            for (sum, short) in self.sum.iter_mut().zip(sums) {
                *sum += short.wide();
            }
        }
    }
}

/// Returns the larger of two, the first if one of them is not a number.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
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
    use crate::kernels::tests::{arches, assert_close, values};

    /// As it is defined, with all scores at once.
    fn plain(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, causal: bool) -> Tensor {
        let options = AttentionOptions { causal, upcast: false };
        composed(query, key, value, heads, options, usize::MAX).unwrap()
    }

    #[test]
    fn blocks_of_queries_and_keys_give_the_same_tokens() {
        // A few; a block and a bit of either; many channels.
        for (n, m, channels, heads) in
            [(23, 29, 12, 3), (5, 77, 40, 1), (103, 2 * KEYS + 9, 34, 2), (300, 300, 16, 1), (13, 40, 300, 1)]
        {
            let shape = |tokens| [2, tokens, channels];
            let (query, key, value) = (values(&shape(n), 1), values(&shape(m), 2), values(&shape(m), 3));
            for causal in [false, true] {
                let options = AttentionOptions { causal, upcast: false };
                let found = attention(&query, &key, &value, heads, options).unwrap();
                assert_close(&found, &plain(&query, &key, &value, heads, causal), 1e-14);
            }
        }
    }

    /// A single thread takes several blocks of queries together where keys and values are many, many threads one each.
    #[test]
    fn blocks_taken_together_give_the_same_bits() {
        let (n, m, channels, heads) = (301, 1100, 64, 2);
        let shape = |tokens| [2, tokens, channels];
        let (query, key, value) = (values(&shape(n), 1), values(&shape(m), 2), values(&shape(m), 3));
        for causal in [false, true] {
            let options = AttentionOptions { causal, upcast: false };
            let sizes = Sizes { n, m, channels, heads, causal };
            let [alone, many] = [1, 16].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    assert_eq!(together::<f64>(2 * n / 32, &sizes) > 1, threads == 1);
                    attention(&query, &key, &value, heads, options).unwrap()
                })
            });
            assert_close(&alone, &plain(&query, &key, &value, heads, causal), 1e-14);
            let elements = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(elements(&alone), elements(&many));
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_tokens() {
        for (n, m, channels, heads) in [(23, 29, 12, 3), (100, 2 * KEYS + 9, 48, 1), (13, 40, 300, 1)] {
            let shape = |tokens| [1, tokens, channels];
            let [query, key, value] = [values(&shape(n), 1), values(&shape(m), 2), values(&shape(m), 3)];
            for causal in [false, true] {
                let expected = plain(&query, &key, &value, heads, causal);
                let elements = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let [query, key, value] = [&query, &key, &value].map(elements);
                let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
                let sizes = Sizes { n, m, channels, heads, causal };
                for arch in arches() {
                    let found = attention_cpu(arch, &query, &key, &value, &sizes);
                    let found = found.into_tensor(expected.shape()).unwrap();
                    assert_close(&found, &expected, 1e-14);
                    let [query, key, value] = [&query, &key, &value].map(|x| narrow(x));
                    let found = attention_cpu(arch, &query, &key, &value, &sizes);
                    let found = found.into_tensor(expected.shape()).unwrap();
                    // Scores are sums of products below 1 in size, of which some hundred ulps can be lost.
                    let bound = (channels / heads + 8) as f64 * f64::from(f32::EPSILON);
                    assert_close(&found.to_dtype(candle_core::DType::F64).unwrap(), &expected, bound);
                }
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
