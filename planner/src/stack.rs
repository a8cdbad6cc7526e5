//! Room on the stack: binding and planning recurse over what a client wrote, and no text of a client may end the server.

/// The stack of a thread that plans or reads. Pages that nothing touches cost nothing.
pub const THREAD_BYTES: usize = 16 << 20;

/// With less room than this, a function marked `recursive` goes on on another stack: what is called between two such functions
/// fits into it, also in a build that is not optimised: sqlparser's places of a long chain of operators, above all.
const LEFT_MIN: usize = 4 << 20;
/// How large that other stack is.
const OTHER_BYTES: usize = 16 << 20;

/// Makes the functions marked `recursive`, here and in DataFusion, keep that much room.
pub fn keep_room() {
    recursive::set_minimum_stack_size(LEFT_MIN);
    recursive::set_stack_allocation_size(OTHER_BYTES);
}
