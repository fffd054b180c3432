//! Exact inversion in the plane, with no model file: data on two moons, the network known in closed form.
//!
//! Points of the upper moon are inverted to noise and generated again under the condition "lower moon". Neighbours stay
//! neighbours, because their noise lies close together; and under its own condition each point comes back to where it was.

use std::convert::Infallible;
use std::f64::consts::PI;

use edict::{
    CoupledPair, Ddim, Edict, Latents, NoisePredictor, NoiseSchedule, Sampler, Timestep, Trajectory,
};
use ndarray::ArrayViewD;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moon {
    Upper,
    Lower,
}

/// The exact noise of points scattered a little around a moon.
struct Moons {
    schedule: NoiseSchedule,
    upper: Vec<[f64; 2]>,
    lower: Vec<[f64; 2]>,
}

const SCATTER: f64 = 0.08;

impl Moons {
    fn new(schedule: NoiseSchedule) -> Self {
        let angles = (0..200).map(|i| PI * i as f64 / 199.0);
        let upper = angles.clone().map(|t| [t.cos() - 0.5, t.sin() - 0.25]).collect();
        let lower = angles.map(|t| [0.5 - t.cos(), 0.25 - t.sin()]).collect();
        Self { schedule, upper, lower }
    }
}

impl NoisePredictor for Moons {
    type Condition = Moon;
    type Error = Infallible;

    /// With data `x` on known points, `E[eps | z]` is a weighted mean over the points: no training needed.
    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, moon: &Moon) -> Result<Latents, Infallible> {
        let bar = self.schedule.alpha_bars()[t.get()];
        let (alpha, sigma) = (bar.sqrt(), (1.0 - bar).sqrt());
        let variance = bar * SCATTER * SCATTER + 1.0 - bar;
        let points = if *moon == Moon::Upper { &self.upper } else { &self.lower };
        let mut eps = Latents::zeros(z.raw_dim());
        for (z, mut eps) in z.rows().into_iter().zip(eps.rows_mut()) {
            let distance = |p: &[f64; 2]| (z[0] - alpha * p[0]).powi(2) + (z[1] - alpha * p[1]).powi(2);
            let nearest = points.iter().map(distance).fold(f64::INFINITY, f64::min);
            let weights: Vec<f64> =
                points.iter().map(|p| ((nearest - distance(p)) / (2.0 * variance)).exp()).collect();
            let total: f64 = weights.iter().sum();
            for axis in 0..2 {
                let mean = points.iter().zip(&weights).map(|(p, w)| w * p[axis]).sum::<f64>() / total;
                eps[axis] = sigma * (z[axis] - alpha * mean) / variance;
            }
        }
        Ok(eps)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000)?;
    let model = Moons::new(schedule.clone());
    let trajectory = Trajectory::builder(50).build(&schedule)?;
    let edict = Edict::default();

    // Eleven points of the upper moon.
    let points =
        Latents::from_shape_fn(vec![11, 2], |i| model.upper[20 * i[0].min(9) + 9 * (i[0] / 10)][i[1]]);
    let noise = edict.invert(&CoupledPair::equal_to(&points), &trajectory, &model, &Moon::Upper, &mut ())?;
    let back = edict.generate(&noise, &trajectory, &model, &Moon::Upper, &mut ())?;
    let moved = edict.generate(&noise, &trajectory, &model, &Moon::Lower, &mut ())?;

    let ddim_noise = Ddim.invert(&points, &trajectory, &model, &Moon::Upper, &mut ())?;
    let ddim_back = Ddim.generate(&ddim_noise, &trajectory, &model, &Moon::Upper, &mut ())?;

    println!("   upper moon     ->      noise        ->   lower moon");
    for i in 0..points.shape()[0] {
        let at = |z: &Latents| format!("({:5.2}, {:5.2})", z[[i, 0]], z[[i, 1]]);
        println!("{}   {}   {}", at(&points), at(&noise.x), at(&moved.x));
    }
    let error = |z: &Latents| (z - &points).iter().fold(0.0, |m: f64, d| m.max(d.abs()));
    println!("largest error on the way back: EDICT {:.1e}, DDIM {:.1e}", error(&back.x), error(&ddim_back));
    assert!(error(&back.x) < 1e-10 && error(&ddim_back) > 1e-4);
    Ok(())
}
