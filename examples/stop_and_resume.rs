//! Watching a run, stopping it, and going on later to the same bits.

use std::ops::ControlFlow;

use edict::{
    CoupledPair, Edict, FnPredictor, Latents, NoiseSchedule, SampleError, Sampler, Step, Timestep, Trajectory,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000)?;
    let trajectory = Trajectory::builder(50).strength(0.8).build(&schedule)?;
    let model = FnPredictor::new(|z, t: Timestep, _: &()| -> Latents {
        z.mapv(|v: f64| (v + t.get() as f64 / 1000.0).sin())
    });
    let edict = Edict::default();
    let image = Latents::from_shape_fn(vec![1, 4, 8, 8], |i| (i[2] as f64 - i[3] as f64) / 8.0);
    let start = CoupledPair::equal_to(&image);

    // The observer sees the state after every step; `Break` stops the run, which hands its state back.
    let mut observer = |step: &Step, pair: &CoupledPair| {
        let gap = (&pair.x - &pair.y).iter().map(|d| d * d).sum::<f64>() / pair.x.len() as f64;
        println!(
            "step {:2} (timestep {:3}): rms gap of the pair {:.4}",
            step.index(),
            step.timestep(),
            gap.sqrt()
        );
        if step.index() == 25 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let Err(SampleError::Stopped { state, level }) =
        edict.invert(&start, &trajectory, &model, &(), &mut observer)
    else {
        return Err("the observer did not stop the run".into());
    };
    println!("stopped at level {level} of {}", trajectory.len());

    // Inversion goes on with the noisier piece; its steps keep their indices, so the update order does not change.
    let (noisier, _) = trajectory.split_at(level)?;
    let resumed = edict.invert(&state, &noisier, &model, &(), &mut ())?;
    let uninterrupted = edict.invert(&start, &trajectory, &model, &(), &mut ())?;
    assert_eq!(resumed, uninterrupted);
    println!("resumed run and uninterrupted run agree in every bit");
    Ok(())
}
