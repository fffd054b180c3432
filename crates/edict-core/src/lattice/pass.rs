//! Passes over registers: each array read and written once.

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

/// `v`, `w` and `z` of all elements.
type Arrays<'a> = (&'a mut [i64], &'a mut [i64], &'a mut [f64]);

/// Applies an operation to every element. With `noise` there are predictions in `z`, else it is only written to.
pub(super) fn pass<O: Operation>(
    operation: &O,
    (v, w, z): Arrays<'_>,
    noise: bool,
) -> Result<(), OutOfRange> {
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
