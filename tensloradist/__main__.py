"""`python -m tensloradist`, and `torchrun … -m tensloradist`: the command line."""

from tensloradist.cli import main

if __name__ == "__main__":
    main()
