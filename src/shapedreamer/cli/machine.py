"""shapedreamer machine: what this machine computes with, and which settings are the fastest on it."""


def run(test: bool = False, forget: bool = False) -> None:
    """Show the processor, the threads and the settings of the CPU kernels, and find the fastest ones.

    The settings change the speed, and results in the last bits. They are kept for this processor, number of threads
    and version of torch.

    Args:
        test: Measure for a few seconds which settings are the fastest here, and keep them.
        forget: Return to the defaults.
    """
    from ..common.device import machine
    from ..common.errors import UserError
    from ..networks.kernels import DEFAULTS, machine_settings, settings_file
    from ..networks.tuning import fastest, keep, self_test

    if test and forget:
        raise UserError("--test finds settings and --forget removes them; leave out one of the two")
    print(machine())
    if test:
        seconds = self_test()
        keep(fastest(seconds))
        for name, times in seconds.items():
            print(f"{name}: {', '.join(f'{value:,}: {1000 * time:.1f} ms' for value, time in times.items())}")
    if forget:
        keep({})
    for name, value in machine_settings().items():
        print(f"{name} = {value:,}{'' if value != DEFAULTS[name] else ' (the default)'}")
    print(f"kept in {settings_file()}")
