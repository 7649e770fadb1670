import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def _figures_of_one_test():
    """Draw without a screen, and leave no figure to the next test."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
