// SPDX-License-Identifier: MIT
//
// The library from C++17: read sections and pins as scopes. In C++ a function hides a structure of
// the same name, so the type is written `struct gr_pin`, as for stat(2).
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>

#include <guestram.h>

namespace {

int check(int rc)
{
	if (rc < 0)
		throw std::runtime_error(gr_last_error());
	return rc;
}

struct Close {
	void operator()(gr_ram *ram) const { gr_ram_close(ram); }
};

class Section {
      public:
	Section() { gr_read_begin(); }
	~Section() { gr_read_end(); }
	Section(const Section &) = delete;
	Section &operator=(const Section &) = delete;
};

class Pin {
      public:
	Pin(gr_space *space, uint64_t addr, uint64_t length, unsigned access)
	{
		check(gr_pin(space, addr, length, access, &pin_));
	}
	~Pin() { gr_unpin(&pin_); }
	Pin(const Pin &) = delete;
	Pin &operator=(const Pin &) = delete;
	template <typename T> T *host() const { return static_cast<T *>(pin_.host); }

      private:
	struct gr_pin pin_;
};

// nullopt where the guest has no memory.
std::optional<uint32_t> load(gr_space *space, uint64_t addr)
{
	uint32_t value;

	if (gr_load_u32_le(space, addr, &value) < 0)
		return std::nullopt;
	return value;
}

int run()
{
	gr_ram *opened = nullptr;
	check(gr_ram_open(nullptr, &opened));
	std::unique_ptr<gr_ram, Close> ram(opened);

	gr_block_opts opts = {}; // all fields that are not set must be zero
	opts.name = "ram0";
	opts.backing = GR_BACKING_MEMFD;
	opts.length = 4096;
	gr_block *block;
	gr_space *space;
	check(gr_block_new(ram.get(), &opts, &block));
	check(gr_space_open(ram.get(), "guest", &space));
	check(gr_space_map(space, 0, block, 0, 4096, GR_READ | GR_WRITE));

	std::thread device([space] { // needs no registration
		Section section;
		if (void *host = gr_host(space, 16, 4, GR_WRITE))
			*static_cast<uint32_t *>(host) = 7;
	});
	device.join();

	Pin pin(space, 16, 4, GR_READ);
	check(gr_space_unmap(space, 0, 4096));
	check(gr_block_delete(block));
	bool kept = *pin.host<uint32_t>() == 7; // unmapped and deleted, but pinned
	bool gone = !load(space, 16);
	std::printf("pinned memory %s, the guest sees %s\n", kept ? "is kept" : "is LOST",
		    gone ? "nothing" : "SOMETHING");
	return kept && gone ? 0 : 1;
}

} // namespace

int main()
{
	try {
		return run();
	} catch (const std::exception &error) {
		std::fprintf(stderr, "cplusplus: %s\n", error.what());
		return 1;
	}
}
