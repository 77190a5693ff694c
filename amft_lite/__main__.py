"""`python -m amft_lite ...`, for launchers: torchrun --nproc_per_node 2 -m amft_lite run ..."""

from amft_lite.cli import main

if __name__ == "__main__":
    main()
