-- SPDX-License-Identifier: Apache-2.0
-- Loops that LuaJIT compiles, recompiles and gives up again: jit.lua SIZE. What it prints depends on SIZE alone.
local size = tonumber(arg[1])
local ffi = require("ffi")
local bit = require("bit")

local function sieve(n)
    local is, count = {}, 0
    for i = 2, n do is[i] = true end
    for i = 2, n do
        if is[i] then
            count = count + 1
            for j = i * i, n, i do is[j] = false end
        end
    end
    return count
end

local function floats(n)
    local x, s = 0.5, 0
    for i = 1, n do
        x = 3.9 * x * (1 - x)
        s = s + math.sin(x) * math.sqrt(i)
    end
    return string.format("%.12f", s)
end

ffi.cdef("typedef struct { int32_t a; uint8_t b[12]; double d; } cell;")
local function structs(n)
    local cells = ffi.new("cell[?]", n)
    for i = 0, n - 1 do
        cells[i].a = bit.bxor(i * 7919, bit.lshift(i, 3))
        cells[i].b[i % 12] = i % 256
        cells[i].d = cells[i].a / 3
    end
    local h = 0
    for turn = 1, 5 do
        for i = 0, n - 1 do
            h = bit.tobit(h * 31 + cells[i].a + cells[i].b[(i + turn) % 12] + cells[i].d)
        end
    end
    return h
end

-- New functions all the time: traces that die young.
local function fresh(n)
    local h = 0
    for i = 1, n do
        local f = loadstring("local h = ... for i = 1, 200 do h = bit.tobit(h * " .. (i % 97 + 3) .. " + bit.bxor(i, " .. i .. ")) end return h")
        setfenv(f, { bit = bit })
        h = f(h)
        if i % 100 == 0 then jit.flush() end
    end
    return h
end

local function strings(n)
    local t = {}
    for i = 1, n do t[#t + 1] = tostring(i):reverse():rep(i % 3 + 1) end
    local s, h = table.concat(t, ","), 0
    for w in s:gmatch("%d+") do h = bit.tobit(h * 33 + #w + w:byte()) end
    return h
end

print("jit is", jit.status())
print("sieve", sieve(size * 2000))
print("floats", floats(size * 10000))
print("structs", structs(size * 200))
print("fresh", fresh(size * 20))
print("strings", strings(size * 500))
