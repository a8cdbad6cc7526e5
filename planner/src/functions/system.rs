pub fn functions() -> Vec<super::Definition> {
    vec![]
}
