//! The tiny models as predictors: what exact inversion needs of them, in every element type.

use edict_stable_diffusion::{DType, ModelFolder, StableDiffusion};
use edict_testkit::conformance::{Tolerances, check_predictor};
use edict_testkit::normal;

use super::Tested;
use super::golden::model;

/// A matrix product adds in an order that depends on its size, hence on the batch; a run asks in batches of one size only, so its
/// exactness does not depend on this. What differs is a last bit here and there, in about forty layers in a row.
fn tolerances(dtype: DType) -> Tolerances {
    let layers = 40.0
        * match dtype {
            DType::F64 => 2f64.powi(-53),
            DType::F32 => 2f64.powi(-24),
            DType::F16 => 2f64.powi(-11),
            DType::BF16 => 2f64.powi(-8),
        };
    Tolerances { pair: layers, batch: layers }
}

fn conforms<T: Tested>(name: &str) {
    let folder = ModelFolder::open(model(name)).unwrap();
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let model = StableDiffusion::load(&T::cpu(dtype), &folder).unwrap();
        let [prompt, empty] = ["a photo of a cat", ""].map(|prompt| model.encode_prompt(prompt).unwrap());
        // Not square, so that no axis can stand for another.
        let latents = normal(&model.latent_shape(1, 48, 32), 7);
        check_predictor(
            &model.predictor(),
            folder.schedule(),
            latents.view(),
            &prompt,
            Some(&empty),
            tolerances(dtype),
        )
        .unwrap_or_else(|error| panic!("{name} at {dtype}: {error}"));
    }
}

pub(crate) fn sd1_conforms_in_every_element_type<T: Tested>() {
    conforms::<T>("tiny-sd1");
}

pub(crate) fn sd2_conforms_in_every_element_type<T: Tested>() {
    conforms::<T>("tiny-sd2");
}

pub(crate) fn an_old_folder_conforms_in_every_element_type<T: Tested>() {
    conforms::<T>("tiny-legacy");
}
