#[test]
fn a_seeded_thread_draws_the_same_again_and_others_do_not() {
    let seeded = || {
        std::thread::spawn(|| {
            super::seed(7);
            (super::uuid(), super::draw::<u64>())
        })
        .join()
        .unwrap()
    };
    assert_eq!(seeded(), seeded());
    assert_ne!(super::uuid(), super::uuid());
    assert_eq!(super::uuid().get_version_num(), 4);
}
