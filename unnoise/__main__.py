"""python -m unnoise"""

from unnoise.cli.main import main

if __name__ == "__main__":
    main()
