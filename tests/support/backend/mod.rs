//! The tests that every back end has to pass: each operation against plain loops, the networks against the Python oracle, what is refused,
//! and which bits may change.
//!
//! A back end's test program says by [`Tested`] how it is made and what of it is different, and calls [`backend_tests`].

pub(crate) mod conformance;
pub(crate) mod determinism;
#[allow(dead_code, unreachable_pub)]
#[path = "../golden.rs"]
pub(crate) mod golden;
pub(crate) mod misfits;
pub(crate) mod networks;
pub(crate) mod operations;
pub(crate) mod oracle;
pub(crate) mod parameters;

use edict_stable_diffusion::{Backend, DType};
use ndarray::ArrayD;

/// A back end under test, and what differs between back ends.
pub(crate) trait Tested {
    type Backend: Backend + std::fmt::Debug;

    /// Whether a query that is not a number makes attention answer with what is not a number.
    const ATTENTION_KEEPS_NAN: bool;

    /// Makes the back end on the processor.
    fn cpu(dtype: DType) -> Self::Backend;

    /// The same with a number of threads.
    fn with_threads(dtype: DType, threads: usize) -> Self::Backend;

    /// Returns the number of threads.
    fn threads(backend: &Self::Backend) -> usize;

    /// Tells what an error complains about.
    fn complaint(error: &Error<Self>) -> Complaint;

    /// Bound for the error of `gelu(x)`, in f64, where `expected` is right.
    fn gelu_bound(x: f64, expected: f64) -> f64;
}

/// What an operation complains about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// Shapes that do not fit the operation of this name.
    Shape(&'static str),
    /// An id outside a table of so many rows.
    Id { id: u32, rows: usize },
    /// So many bytes where the shape stands for another number.
    DataLength(usize),
    /// Something else.
    Other,
}

pub(crate) type Tensor<T> = <<T as Tested>::Backend as Backend>::Tensor;
pub(crate) type Error<T> = <<T as Tested>::Backend as Backend>::Error;

fn up<B: Backend>(backend: &B, x: &ArrayD<f64>) -> B::Tensor {
    backend.upload(x.view()).unwrap()
}

/// Makes a test of every function of this module's parts, for the back end that a [`Tested`] stands for.
///
/// A function that is missing here is dead code, which the linter reports.
macro_rules! backend_tests {
    ($tested:ty) => {
        $crate::backend::backend_tests! { $tested:
            conformance {
                sd1_conforms_in_every_element_type
                sd2_conforms_in_every_element_type
                an_old_folder_conforms_in_every_element_type
            }
            determinism {
                equal_arguments_give_equal_bits
                ragged_arguments_give_equal_bits
                convolutions_give_equal_bits_between_other_images
            }
            misfits {
                refuses_misfit_parameters
                refuses_misfit_layers
                refuses_misfit_attention
                refuses_misfit_elementwise_operations
                refuses_tensors_of_another_element_type
                takes_empty_batches
            }
            networks {
                text_encoder_agrees_with_the_oracle
                unet_agrees_with_the_oracle
                autoencoder_agrees_with_the_oracle
                a_guided_pair_is_its_two_predictions
                what_is_not_a_number_comes_out_of_the_network
            }
            operations {
                convolves_with_every_window_stride_and_padding
                convolves_images_of_one_shape_after_another
                maps_the_last_axis_of_any_rank
                maps_and_gates_in_one
                normalises_groups_of_channels
                normalises_groups_far_from_zero
                normalises_the_last_axis
                attends
                attends_beyond_one_block_of_keys_and_to_wide_heads
                attends_by_scores_of_any_size
                passes_on_what_is_not_a_number
                activates
                gelu_is_right_far_into_its_tail
                moves_elements
                adds_and_scales
                rounds_half_formats_once
            }
            parameters {
                rounds_uploaded_values_once
                reads_every_format_into_every_other_at_any_alignment
                parameters_are_debugged_without_their_elements
                uploads_and_downloads_in_row_major_order_whatever_the_layout
                refuses_bytes_that_do_not_fill_the_shape
                changes_the_element_type_and_nothing_else
            }
        }
    };
    ($tested:ty: $($part:ident { $($test:ident)* })*) => {
        $(mod $part {
            $(#[test]
            fn $test() {
                $crate::backend::$part::$test::<$tested>();
            })*
        })*
    };
}
pub(crate) use backend_tests;
