//! Attention in blocks of queries.

use candle_core::{D, Tensor};
use edict_stable_diffusion::AttentionOptions;

use super::{Real, by_width, change, for_each_row, in_wide, misfit, sum, token_dims, widen, with_slice};
use crate::error::Result;

/// Bytes of scores that exist at once; the scores of a single query for all heads may need more.
const BLOCK_BYTES: usize = 32 << 20;

/// Computes `softmax(q k^T / sqrt(channels / heads)) v` head by head.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    options: AttentionOptions,
) -> Result<Tensor> {
    attention_in_blocks(query, key, value, heads, options, BLOCK_BYTES)
}

/// [`attention`] with blocks of a given size.
pub(crate) fn attention_in_blocks(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    options: AttentionOptions,
    block_bytes: usize,
) -> Result<Tensor> {
    let [batch, _, channels] = token_dims("attention", query)?;
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
        return composed(query, key, value, heads, options, block_bytes);
    }
    in_wide(query, |query| {
        let (key, value) = (widen(key)?, widen(value)?);
        by_width!("attention", query, T => {
            attention_cpu::<T>(query, &key, &value, heads, options.causal, block_bytes)
        })
    })
}

fn attention_cpu<T: Real>(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    causal: bool,
    block_bytes: usize,
) -> Result<Tensor> {
    let (batch, n, channels) = query.dims3()?;
    let m = key.dim(1)?;
    let depth = channels / heads;
    let by_head = |x: &Tensor, item: usize| x.get(item)?.reshape((x.dim(1)?, heads, depth))?.transpose(0, 1);
    let (query, key, value) = (query.contiguous()?, key.contiguous()?, value.contiguous()?);
    let block = (block_bytes / (heads * m * size_of::<T>())).clamp(1, n.max(1));
    let scale = 1.0 / (depth as f64).sqrt();
    let mut out = vec![T::zero(); batch * n * channels];
    for item in 0..batch {
        let (query, key, value) = (by_head(&query, item)?, by_head(&key, item)?, by_head(&value, item)?);
        for first in (0..n).step_by(block) {
            let rows = block.min(n - first);
            let query = query.narrow(1, first, rows)?;
            let out = &mut out[(item * n + first) * channels..][..rows * channels];
            block_cpu::<T>(&query, &key, &value, scale, causal.then_some(first), out)?;
        }
    }
    Ok(Tensor::from_vec(out, (batch, n, channels), query.device())?)
}

/// Fills `out` `[rows, heads * depth]` for a block of queries `[heads, rows, depth]`.
///
/// With `causal`, the number of queries before the block, a query sees keys up to its own position.
fn block_cpu<T: Real>(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    causal: Option<usize>,
    out: &mut [T],
) -> Result<()> {
    let (heads, rows, depth) = query.dims3()?;
    let m = key.dim(1)?;
    let scores = query.matmul(&key.t()?)?;
    change(&scores, |scores: &mut [T]| {
        for_each_row(scores, m, |i, row| {
            let seen = causal.map_or(m, |first| (first + i % rows + 1).min(m));
            let (seen, unseen) = row.split_at_mut(seen);
            softmax(seen, scale);
            unseen.fill(T::zero());
        });
    })?;
    with_slice(&scores.matmul(value)?, |mixed: &[T]| {
        for_each_row(out, depth, |i, out| {
            let (row, head) = (i / heads, i % heads);
            out.copy_from_slice(&mixed[(head * rows + row) * depth..][..depth]);
        });
    })
}

/// Replaces scores by `exp(scale (score - max))` over their sum.
fn softmax<T: Real>(scores: &mut [T], scale: f64) {
    let (max, scale) = (largest(scores), T::of(scale));
    for score in scores.iter_mut() {
        *score = ((*score - max) * scale).exp();
    }
    let factor = T::of(1.0 / sum(scores, |weight| weight));
    for score in scores {
        *score *= factor;
    }
}

/// Returns the largest element; what is not a number is passed over.
fn largest<T: Real>(scores: &[T]) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut lanes = [T::of(f64::NEG_INFINITY); 8];
    let (whole, rest) = scores.as_chunks::<8>();
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

    #[test]
    fn blocks_of_any_size_give_the_same_tokens() {
        let (query, key, value) = (values(&[2, 23, 12], 1), values(&[2, 29, 12], 2), values(&[2, 29, 12], 3));
        for causal in [false, true] {
            let options = AttentionOptions { causal, upcast: false };
            let whole = attention(&query, &key, &value, 3, options).unwrap();
            // One query at a time; five; eleven, so that the last block is shorter.
            let row = 3 * 29 * size_of::<f64>();
            for bytes in [0, 5 * row, 11 * row] {
                let blocks = attention_in_blocks(&query, &key, &value, 3, options, bytes).unwrap();
                assert_close(&blocks, &whole, 1e-14);
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
