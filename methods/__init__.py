"""Attribution methods: pure functions of a trained model and examples."""
