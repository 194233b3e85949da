# Builds for 64-bit Arm on another processor, and runs what was built in QEMU:
#   cmake -S . -B build/aarch64 --toolchain cmake/aarch64-linux-gnu.cmake
# On Debian: apt install g++-aarch64-linux-gnu qemu-user
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;/usr/aarch64-linux-gnu)
