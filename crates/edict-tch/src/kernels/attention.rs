//! Attention by PyTorch's fused kernels, which form scores in blocks.

use edict_stable_diffusion::{AttentionOptions, DType};

use super::{extents, misfit, narrow, same_type, token_dims, widen};
use crate::error::Result;
use crate::tensor::Tensor;
use crate::weights::is_half;

/// Bytes of scores that exist at once where there is no fused kernel; the scores of a single query for all heads may need more.
const BLOCK_BYTES: usize = 64 << 20;

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
    same_type("attention", query, &[key, value])?;
    let by_head = |x: &Tensor, tokens: usize| -> Result<tch::Tensor> {
        let mut x = widen(x)?;
        if options.upcast && is_half(query.dtype()) {
            x = x.f_to_kind(tch::Kind::Float)?;
        }
        Ok(x.f_reshape(extents([batch, tokens, heads, channels / heads]))?.f_transpose(1, 2)?)
    };
    let [query_heads, key_heads, value_heads] = [by_head(query, n)?, by_head(key, m)?, by_head(value, m)?];
    // On GPUs there is no fused kernel for f64: PyTorch would form all scores at once. The text encoder's are few.
    let out = if query.dtype() == DType::F64 && query_heads.device().is_cuda() && !options.causal {
        let rows = (BLOCK_BYTES / (batch * heads * m * query.dtype().size()).max(1)).max(1);
        in_blocks(&query_heads, &key_heads, &value_heads, rows)?
    } else {
        fused(&query_heads, &key_heads, &value_heads, options.causal)?
    };
    narrow(out.f_transpose(1, 2)?.f_reshape(extents([batch, n, channels]))?, query.dtype())
}

fn fused(query: &tch::Tensor, key: &tch::Tensor, value: &tch::Tensor, causal: bool) -> Result<tch::Tensor> {
    let mask = None::<tch::Tensor>;
    Ok(tch::Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, causal, None, false)?)
}

/// Attends `rows` queries at a time.
fn in_blocks(
    query: &tch::Tensor,
    key: &tch::Tensor,
    value: &tch::Tensor,
    rows: usize,
) -> Result<tch::Tensor> {
    let [rows] = extents([rows]);
    let blocks = query.f_split(rows, 2)?;
    let blocks: Vec<_> = blocks.iter().map(|query| fused(query, key, value, false)).collect::<Result<_>>()?;
    Ok(tch::Tensor::f_cat(&blocks, 2)?)
}

#[cfg(test)]
mod tch_tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn blocks_of_queries_attend_as_all_at_once() {
        let random = |n: i64| Tensor::f_randn([2, 3, n, 8], (Kind::Double, Device::Cpu)).unwrap();
        let (query, key, value) = (random(13), random(7), random(7));
        let whole = fused(&query, &key, &value, false).unwrap();
        for rows in [1, 4, 13, 20] {
            let found = in_blocks(&query, &key, &value, rows).unwrap();
            assert_eq!(found.size(), whole.size());
            let error = f64::try_from(found.f_sub(&whole).unwrap().abs().max()).unwrap();
            assert!(error < 1e-14, "{rows} rows at a time: {error:e}");
        }
    }
}
