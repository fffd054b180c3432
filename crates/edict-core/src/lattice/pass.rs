//! Passes over registers: each array read and written once.

use pulp::{Arch, Simd, WithSimd};

use super::integer::{Checked, Fast, Integers, OutOfRange};

/// An element on its way through a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Element {
    /// Its registers.
    pub(super) v: i64,
    pub(super) w: i64,
    /// The noise predicted before the operation, the latent to predict the next noise from after it.
    pub(super) z: f64,
}

/// What a step does to an element.
///
/// Every line of a step is such an operation, and the same with the coefficient's sign turned undoes it: rounding is odd.
/// Operations are made one after the other by tuples of them.
pub(super) trait Operation {
    /// What it changes.
    const CHANGES: Changes;

    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element;
}

/// Which parts of an element an operation changes.
#[derive(Clone, Copy)]
pub(super) struct Changes {
    pub(super) v: bool,
    pub(super) w: bool,
    pub(super) z: bool,
}

impl Changes {
    pub(super) const NOTHING: Self = Self { v: false, w: false, z: false };
    pub(super) const V: Self = Self { v: true, ..Self::NOTHING };
    pub(super) const W: Self = Self { w: true, ..Self::NOTHING };
    pub(super) const Z: Self = Self { z: true, ..Self::NOTHING };

    const fn and(self, other: Self) -> Self {
        Self { v: self.v || other.v, w: self.w || other.w, z: self.z || other.z }
    }
}

impl<A: Operation, B: Operation> Operation for (A, B) {
    const CHANGES: Changes = A::CHANGES.and(B::CHANGES);

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        let element = self.0.of(integers, element);
        self.1.of(integers, element)
    }
}

/// `w += noise z`
pub(super) struct AddNoise {
    pub(super) noise: f64,
}

impl Operation for AddNoise {
    const CHANGES: Changes = Changes::W;

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        let by = integers.round(element.z * self.noise);
        Element { w: integers.add(element.w, by), ..element }
    }
}

/// `v += q w`
pub(super) struct AddDifference {
    pub(super) q: f64,
}

impl Operation for AddDifference {
    const CHANGES: Changes = Changes::V;

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        Element { v: sum(integers, element, self.q), ..element }
    }
}

/// `z = scale v`
pub(super) struct Read {
    pub(super) scale: f64,
}

impl Operation for Read {
    const CHANGES: Changes = Changes::Z;

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        Element { z: integers.float(element.v) * self.scale, ..element }
    }
}

/// `z = scale (v + q w)`
pub(super) struct ReadSum {
    pub(super) scale: f64,
    pub(super) q: f64,
}

impl Operation for ReadSum {
    const CHANGES: Changes = Changes::Z;

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        let sum = sum(integers, element, self.q);
        Element { z: integers.float(sum) * self.scale, ..element }
    }
}

/// `v + q w`
#[inline(always)]
fn sum<I: Integers>(integers: &mut I, Element { v, w, .. }: Element, q: f64) -> i64 {
    let difference = integers.float(w) * q;
    let difference = integers.round(difference);
    integers.add(v, difference)
}

/// Elements that are looked at together: small enough for the first-level cache.
const BLOCK: usize = 256;

/// A block as it was, for the case that [`Fast`] does not do.
struct Before {
    v: [i64; BLOCK],
    w: [i64; BLOCK],
    z: [f64; BLOCK],
}

/// Applies an operation to every element, with the widest vectors that the machine has. With `noise` there are predictions in
/// `z`, else it is only written to.
pub(super) fn pass<O: Operation>(operation: &O, arrays: Arrays<'_>, noise: bool) -> Result<(), OutOfRange> {
    Arch::new().dispatch(Pass { operation, arrays, noise })
}

/// `v`, `w` and `z` of all elements.
type Arrays<'a> = (&'a mut [i64], &'a mut [i64], &'a mut [f64]);

struct Pass<'a, O> {
    operation: &'a O,
    arrays: Arrays<'a>,
    noise: bool,
}

impl<O: Operation> WithSimd for Pass<'_, O> {
    type Output = Result<(), OutOfRange>;

    // The same loop is compiled for each kind of machine; what is not inlined into it stays that of the oldest.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        blocks(self.operation, self.arrays, self.noise)
    }
}

#[inline(always)]
fn blocks<O: Operation>(operation: &O, (v, w, z): Arrays<'_>, noise: bool) -> Result<(), OutOfRange> {
    // Fresh memory is slow to read.
    let changes = Changes { z: O::CHANGES.z && noise, ..O::CHANGES };
    let mut before = Before { v: [0; BLOCK], w: [0; BLOCK], z: [0.0; BLOCK] };
    for ((v, w), z) in v.chunks_mut(BLOCK).zip(w.chunks_mut(BLOCK)).zip(z.chunks_mut(BLOCK)) {
        let n = v.len();
        keep(changes.v, v, &mut before.v[..n]);
        keep(changes.w, w, &mut before.w[..n]);
        keep(changes.z, z, &mut before.z[..n]);
        if !fast(operation, (v, w, z)) {
            keep(changes.v, &before.v[..n], v);
            keep(changes.w, &before.w[..n], w);
            keep(changes.z, &before.z[..n], z);
            slow(operation, (v, w, z))?;
        }
    }
    Ok(())
}

/// Returns whether the numbers were small enough; what it has written is wrong if not.
#[inline(always)]
fn fast<O: Operation>(operation: &O, (v, w, z): Arrays<'_>) -> bool {
    let mut fast = Fast::default();
    // By index: iterators over three slices, of which not all are used, do not vectorise.
    let n = v.len();
    let (v, w, z) = (&mut v[..n], &mut w[..n], &mut z[..n]);
    for i in 0..n {
        let element = operation.of(&mut fast, Element { v: v[i], w: w[i], z: z[i] });
        // The compiler does not see that what an operation leaves alone need not be written.
        if O::CHANGES.v {
            v[i] = element.v;
        }
        if O::CHANGES.w {
            w[i] = element.w;
        }
        if O::CHANGES.z {
            z[i] = element.z;
        }
    }
    fast.passed()
}

#[cold]
#[inline(never)]
fn slow(operation: &impl Operation, (v, w, z): Arrays<'_>) -> Result<(), OutOfRange> {
    for ((v, w), z) in v.iter_mut().zip(w).zip(z) {
        Element { v: *v, w: *w, z: *z } = checked(operation, Element { v: *v, w: *w, z: *z })?;
    }
    Ok(())
}

#[inline(always)]
fn keep<T: Copy>(changes: bool, from: &[T], to: &mut [T]) {
    if changes {
        to.copy_from_slice(from);
    }
}

/// Applies an operation to one element.
pub(super) fn checked(operation: &impl Operation, element: Element) -> Result<Element, OutOfRange> {
    let mut checked = Checked::default();
    let element = operation.of(&mut checked, element);
    checked.passed()?;
    Ok(element)
}

#[cfg(test)]
mod tests {
    use super::super::integer::RANGE;
    use super::*;

    /// Numbers of every size up to the range, many of them about the border of the fast arithmetic.
    fn numbers(count: usize, seed: u64) -> Vec<i64> {
        let mut state = seed;
        let mut next = || {
            // Knuth's generator for MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as i64
        };
        let mut number = |index: usize| match (index / 300 + seed as usize) % 4 {
            // Small numbers for the fast arithmetic, those at its border, some of all sizes, and those at the range's border.
            0 => (next() << 17) - (1 << 47),
            1 => [BORDER, -BORDER][index % 2] + next() % 5 - 2,
            2 => (next() - (1 << 30)) << 30 >> (next() % 50),
            _ => [1, -1][index % 2] * (RANGE - 1 - (next() << 19)),
        };
        (0..count).map(&mut number).collect()
    }

    const BORDER: i64 = 1 << 51;
    const NOISE: f64 = 0.7312;

    /// Compares every way to do an operation: with the machine's vectors, with the oldest ones, and element by element.
    fn check(name: &str, operation: &impl Operation) {
        for (count, seed) in [0, 1, 3, 7, 255, 256, 257, 300, 1021]
            .into_iter()
            .flat_map(|c| [0, 1, 2, 3, 4].map(|seed| (c, seed)))
        {
            let (v, mut w) = (numbers(count, seed), numbers(count, seed + 10));
            let mut z: Vec<f64> = numbers(count, seed + 20).iter().map(|z| *z as f64 * 0.25).collect();
            if seed == 4 {
                // Just beyond the fast arithmetic, with a small sum.
                for (z, w) in z.iter_mut().zip(&mut w) {
                    *z = (*z + BORDER as f64 * 1.25) / NOISE;
                    *w = *w % 8 - (*z * NOISE) as i64;
                }
            }
            let expected: Result<Vec<Element>, OutOfRange> =
                (0..count).map(|i| checked(operation, Element { v: v[i], w: w[i], z: z[i] })).collect();
            for (dispatched, way) in [(true, "dispatched"), (false, "plain")] {
                let (mut v, mut w, mut z) = (v.clone(), w.clone(), z.clone());
                let arrays: Arrays<'_> = (&mut v, &mut w, &mut z);
                let done =
                    if dispatched { pass(operation, arrays, true) } else { blocks(operation, arrays, true) };
                match &expected {
                    Err(error) => assert_eq!(done, Err(*error), "{name}, {way}, {count} {seed}"),
                    Ok(expected) => {
                        assert_eq!(done, Ok(()), "{name}, {way}, {count} {seed}");
                        for (i, expected) in expected.iter().enumerate() {
                            let bits = |e: &Element| (e.v, e.w, e.z.to_bits());
                            let found = Element { v: v[i], w: w[i], z: z[i] };
                            assert_eq!(bits(&found), bits(expected), "{name}, {way}, {count} {seed}, {i}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_way_gives_the_same_bits() {
        let (noise, q, scale) = (NOISE, 0.8649, 1.1e-12);
        let move_y = ((AddDifference { q }, AddNoise { noise }), AddDifference { q: -q });
        check("add noise", &AddNoise { noise });
        check("add difference", &AddDifference { q });
        check("read", &Read { scale });
        check("move x, read", &(AddNoise { noise: -noise }, ReadSum { scale, q }));
        check("move y, read", &(move_y, Read { scale }));
        // Integers that round to the same float, and halves.
        check("halves", &(AddNoise { noise: 0.5 }, AddDifference { q: 0.5 }));
        // Leaves the range at the largest numbers.
        check("large", &(AddDifference { q: 7.0 }, AddDifference { q: 7.0 }));
    }
}
