//! A model of your own behind the samplers: implement one trait.
//!
//! The model here is a small network in single precision that predicts velocities and knows ten classes. What it needs is
//! what any real one needs: a cast on the way in and out, an error type, a parameterisation, guidance, and a check that it answers as
//! the samplers need it to.

use edict::{
    Guidance, GuidanceScale, Guided, Latents, LatticeEdict, NoisePredictor, NoiseSchedule, Sampler, Timestep,
    Trajectory, VelocityPredictor, narrow, widen,
};
use edict_testkit::conformance::{Tolerances, check_predictor};
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

    let model = VelocityPredictor::new(MyModel::new(), schedule.clone());
    let data = Latents::from_shape_fn(vec![4, WIDTH], |i| ((i[0] + 2 * i[1]) as f64).sin());
    // Once, before it is used. A matrix product in f32 may add in another order in another batch: up to 1e-6 apart.
    let tolerances = Tolerances { pair: 1e-6, batch: 1e-6 };
    check_predictor(&model, &schedule, data.view(), &Some(3), Some(&None), tolerances)?;

    let guided = Guided::new(model, GuidanceScale::constant(2.0)?);
    let source = Guidance { positive: Some(3), negative: None };
    let target = Guidance { positive: Some(7), negative: None };

    let edict = LatticeEdict::default();
    let image = edict.state_from_image(&data, &trajectory)?;
    let noise = edict.invert(&image, &trajectory, &guided, &source, &mut ())?;
    let back = edict.generate(&noise, &trajectory, &guided, &source, &mut ())?;
    let edited = edict.generate(&noise, &trajectory, &guided, &target, &mut ())?;

    assert_eq!(back, image, "every bit comes back");
    let edited = edict.image(&edited, &trajectory)?;
    let distance = (&edited - &data).iter().fold(0.0, |m: f64, d| m.max(d.abs()));
    println!("back under class 3: the same bits; under class 7: {distance:.2} away");

    let wrong = Guidance { positive: Some(12), negative: None };
    let error = edict.generate(&noise, &trajectory, &guided, &wrong, &mut ()).unwrap_err();
    println!("errors keep their cause: {error}: {}", std::error::Error::source(&error).ok_or("no cause")?);
    Ok(())
}
