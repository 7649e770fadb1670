"""Print the reference table of tests/kernels/test_inference.py; needs mpmath.

Run from the project's root: ``python tests/helpers/tails_mpmath.py``.
Each statistic is chosen for its z, rounded to a double, and its tail computed anew at 60 digits.
"""

import mpmath as mp

mp.mp.dps = 60

TARGETS = ("0.001", "0.5", "1.96", "5", "8.3", "20", "30", "37")


def upper_normal(z):
    return mp.erfc(z / mp.sqrt(2)) / 2


def upper_t(t, dof):
    return mp.betainc(mp.mpf(dof) / 2, mp.mpf(1) / 2, 0, dof / (dof + t * t), regularized=True) / 2


def upper_f(f, q, dof):
    return mp.betainc(mp.mpf(dof) / 2, mp.mpf(q) / 2, 0, dof / (dof + q * f), regularized=True)


def lower_f(f, q, dof):
    x = q * f / (dof + q * f)
    return mp.betainc(mp.mpf(q) / 2, mp.mpf(dof) / 2, 0, x, regularized=True)


def invert(log_tail, target):
    """Find the positive statistic at which a decreasing log tail reaches a target."""
    low, high = mp.mpf(-700), mp.mpf(700)  # of log(statistic)
    for _ in range(140):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(mp.exp(middle)) > target else (low, middle)
    return mp.exp(low)


def z_of(tail):
    """Normal score of an upper tail of at most one half."""
    wanted = mp.log(tail)
    return invert(lambda z: mp.log(upper_normal(z)), wanted)


def show(*values):
    print("    (" + ", ".join(v if isinstance(v, str) else repr(float(v)) for v in values) + "),")


def main():
    print("T_TAILS = [  # t, dof, upper tail, z")
    for dof in (3, 20, 107, 1284):
        for target in TARGETS:
            goal = mp.log(upper_normal(mp.mpf(target)))
            t = mp.mpf(float(invert(lambda t, dof=dof: mp.log(upper_t(t, dof)), goal)))
            tail = upper_t(t, dof)
            show(t, str(dof), tail, z_of(tail))
    print("]")
    print("F_TAILS = [  # F, q, dof, upper tail, z")
    for q, dof in ((1, 20), (2, 107), (4, 177), (8, 1284)):
        for target in TARGETS:
            for sign in (1, -1):
                goal = mp.log(upper_normal(mp.mpf(target)))
                if sign > 0:
                    f = invert(lambda f, q=q, dof=dof: mp.log(upper_f(f, q, dof)), goal)
                else:
                    f = 1 / invert(lambda g, q=q, dof=dof: mp.log(lower_f(1 / g, q, dof)), goal)
                f = mp.mpf(float(f))
                if f == 0:
                    continue
                upper = upper_f(f, q, dof)
                z = z_of(upper) if upper < 0.5 else -z_of(lower_f(f, q, dof))
                show(f, str(q), str(dof), upper, z)
    print("]")


if __name__ == "__main__":
    main()
