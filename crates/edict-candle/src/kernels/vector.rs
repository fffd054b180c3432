//! Vector registers, whatever the processor has: through `pulp`, which looks for them at run time.

use pulp::Simd;

/// An element type that comes in vectors.
pub(crate) trait Vectored: Copy {
    /// As many elements as a register of `S` holds.
    type Vector<S: Simd>: Copy;

    /// Repeats an element.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// Computes `x + y`.
    fn add_each<S: Simd>(simd: S, x: Self::Vector<S>, y: Self::Vector<S>) -> Self::Vector<S>;
    /// Computes `x y + z`, with one rounding where the processor is quick at that and with two elsewhere.
    fn mul_add<S: Simd>(
        simd: S,
        x: Self::Vector<S>,
        y: Self::Vector<S>,
        z: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// Returns the larger of each two, the first if one of them is not a number.
    fn larger_each<S: Simd>(simd: S, x: Self::Vector<S>, y: Self::Vector<S>) -> Self::Vector<S>;
    /// Views elements as vectors; a rest that fills none is left out.
    fn vectors<S: Simd>(x: &[Self]) -> &[Self::Vector<S>];
    /// As [`Self::vectors`], for writing.
    fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::Vector<S>];
}

macro_rules! vectored {
    ($T:ident, $vector:ident, $splat:ident, $add:ident, $mul_add:ident, $less:ident, $select:ident, $view:ident, $view_mut:ident) => {
        impl Vectored for $T {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }

            #[inline(always)]
            fn add_each<S: Simd>(simd: S, x: S::$vector, y: S::$vector) -> S::$vector {
                simd.$add(x, y)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, x: S::$vector, y: S::$vector, z: S::$vector) -> S::$vector {
                simd.$mul_add(x, y, z)
            }

            #[inline(always)]
            fn larger_each<S: Simd>(simd: S, x: S::$vector, y: S::$vector) -> S::$vector {
                simd.$select(simd.$less(x, y), y, x)
            }

            #[inline(always)]
            fn vectors<S: Simd>(x: &[Self]) -> &[S::$vector] {
                S::$view(x).0
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [S::$vector] {
                S::$view_mut(x).0
            }
        }
    };
}

vectored!(
    f32,
    f32s,
    splat_f32s,
    add_f32s,
    mul_add_e_f32s,
    less_than_f32s,
    select_f32s,
    as_simd_f32s,
    as_mut_simd_f32s
);
vectored!(
    f64,
    f64s,
    splat_f64s,
    add_f64s,
    mul_add_e_f64s,
    less_than_f64s,
    select_f64s,
    as_simd_f64s,
    as_mut_simd_f64s
);
