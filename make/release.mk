# The library and the command as they are released and measured.
#
# Cargo drops link-time optimization where one crate makes two kinds of library, so the release is made as an
# archive, which keeps it, and linked by the C compiler: that is also what decides which names leave it. Both
# files are linked with stand-ins for the C library (scripts/glibc_stubs.sh), so that they run with glibc 2.28.

CC ?= cc
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
SHOAL_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
RELEASE := target/release
STUBS := $(CURDIR)/target/glibc

# Calls within the library stay within; it is never unmapped, since a thread of ours may run in it; nothing is
# resolved late, in the middle of a measurement; what no library defines is an error here and not in a job.
RELEASE_LINK := -shared -Wl,-soname,libnccl.so.2 -Wl,--version-script=link/shoal.map -Wl,-Bsymbolic \
	-Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,-O1 -Wl,--gc-sections -Wl,--as-needed \
	-Wl,-z,defs

.PHONY: release release-check install
release: ## the library and the command as they are measured, for glibc 2.28 or newer
	scripts/glibc_stubs.sh $(STUBS)
	$(CARGO) rustc --package shoal --release --locked --bin shoal -- $$(test ! -e $(STUBS)/program.o || echo -L native=$(STUBS) \
		-C link-arg=$(STUBS)/program.o -C link-arg=-Wl,--wrap=__libc_start_main -C link-arg=-Wl,--allow-shlib-undefined)
	$(CARGO) rustc --package shoal --release --locked --lib --crate-type staticlib
	$(CC) $(RELEASE_LINK) -o $(RELEASE)/libshoal.so.new -Wl,--whole-archive $(RELEASE)/libshoal.a -Wl,--no-whole-archive \
		$$(test ! -e $(STUBS)/library.o || echo $(STUBS)/library.o -L$(STUBS)) -lgcc_s -lpthread -ldl -lm -lc
	mv -f $(RELEASE)/libshoal.so.new $(RELEASE)/libshoal.so
	$(CARGO) rustc --package shoal-nccl --release --locked --lib --crate-type cdylib
	cp -f $(RELEASE)/libshoal_nccl.so $(RELEASE)/libshoal-nccl.so

release-check: release ## that the release shows its interface, needs no glibc above 2.28, and runs
	SHOAL_TEST_LIBRARY=$(CURDIR)/$(RELEASE)/libshoal.so $(CARGO) test --locked --test abi
	SHOAL_TEST_RELEASE=$(CURDIR)/$(RELEASE) $(CARGO) test --locked --test release -- --include-ignored

# libnccl.so.2 is what a job preloads; libnccl.so is what a compiler looks for.
install: release
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(RELEASE)/libshoal.so $(DESTDIR)$(PREFIX)/lib/libnccl.so.2
	ln -sf libnccl.so.2 $(DESTDIR)$(PREFIX)/lib/libnccl.so
	install -m 755 $(RELEASE)/libshoal-nccl.so $(DESTDIR)$(PREFIX)/lib/libshoal-nccl.so
	install -m 644 include/nccl.h include/shoal.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 $(RELEASE)/shoal $(DESTDIR)$(PREFIX)/bin/shoal
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(SHOAL_VERSION)|' link/shoal.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/shoal.pc
	chmod 644 $(DESTDIR)$(PREFIX)/lib/pkgconfig/shoal.pc
