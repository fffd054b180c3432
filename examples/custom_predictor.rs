//! A model of your own behind the samplers: implement one trait.
//!
//! The model here is a small network in single precision that predicts velocities and knows ten classes. What it needs is
//! what any real one needs: a cast on the way in and out, an error type, a parameterisation, and guidance.

use edict::{
    CoupledPair, Edict, Guidance, GuidanceScale, Guided, Latents, NoisePredictor, NoiseSchedule, Sampler,
    Timestep, Trajectory, VelocityPredictor, narrow, widen,
};
use ndarray::{Array2, ArrayD, ArrayViewD, Ix2};

/// Features of a sample.
const WIDTH: usize = 12;

/// A residual network `v = z / 2 + B tanh(A z + class + time)`, in f32.
struct MyModel {
    a: Array2<f32>,
    b: Array2<f32>,
}

#[derive(Debug, thiserror::Error)]
enum MyError {
    #[error("class {0} is unknown; classes are 0 to 9")]
    UnknownClass(usize),
    #[error("latents should be [batch, {WIDTH}], found {0:?}")]
    Shape(Vec<usize>),
}

impl MyModel {
    fn new() -> Self {
        // Any fixed weights do to show exactness: it does not depend on the network.
        let weight = |i: usize, j: usize, k: usize| ((i * 37 + j * 101 + k * 53) % 97) as f32 / 97.0 - 0.5;
        Self {
            a: Array2::from_shape_fn((WIDTH, WIDTH), |(i, j)| weight(i, j, 1)),
            b: Array2::from_shape_fn((WIDTH, WIDTH), |(i, j)| weight(i, j, 2)),
        }
    }
}

impl NoisePredictor for MyModel {
    /// A class, or none for the unconditional prediction.
    type Condition = Option<usize>;
    type Error = MyError;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        class: &Option<usize>,
    ) -> Result<Latents, MyError> {
        if let Some(class) = class.filter(|class| *class > 9) {
            return Err(MyError::UnknownClass(class));
        }
        let shape = latents.shape().to_vec();
        // The network's own precision begins and ends here; the samplers know nothing of it.
        let z: ArrayD<f32> = narrow(latents);
        let z = z
            .into_dimensionality::<Ix2>()
            .ok()
            .filter(|z| z.ncols() == WIDTH)
            .ok_or(MyError::Shape(shape))?;
        let shift = class.map_or(0.0, |class| class as f32 / 10.0) + t.get() as f32 / 1000.0;
        let hidden = z.dot(&self.a.t()).mapv(|h| (h + shift).tanh());
        let velocity = z.mapv(|z| z / 2.0) + hidden.dot(&self.b.t());
        Ok(widen(velocity.into_dyn().view()))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schedule = NoiseSchedule::linear(1e-4, 0.02, 1000)?;
    let trajectory = Trajectory::builder(25).strength(0.8).build(&schedule)?;

    let model = VelocityPredictor::new(MyModel::new(), schedule);
    let guided = Guided::new(model, GuidanceScale::constant(2.0)?);
    let source = Guidance { positive: Some(3), negative: None };
    let target = Guidance { positive: Some(7), negative: None };

    let edict = Edict::default();
    let data = Latents::from_shape_fn(vec![4, WIDTH], |i| ((i[0] + 2 * i[1]) as f64).sin());
    let noise = edict.invert(&CoupledPair::equal_to(&data), &trajectory, &guided, &source, &mut ())?;
    let back = edict.generate(&noise, &trajectory, &guided, &source, &mut ())?;
    let edited = edict.generate(&noise, &trajectory, &guided, &target, &mut ())?;

    let distance = |z: &Latents| (z - &data).iter().fold(0.0, |m: f64, d| m.max(d.abs()));
    println!(
        "back under class 3: {:.1e} off; under class 7: {:.2} away",
        distance(&back.x),
        distance(&edited.x)
    );
    assert!(distance(&back.x) < 1e-4, "exact up to roundings that a network in f32 sees");

    let wrong = Guidance { positive: Some(12), negative: None };
    let error = edict.generate(&noise, &trajectory, &guided, &wrong, &mut ()).unwrap_err();
    println!("errors keep their cause: {error}: {}", std::error::Error::source(&error).ok_or("no cause")?);
    Ok(())
}
